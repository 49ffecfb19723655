// Steps of several models by turns in one process: what slows a machine down for seconds slows all of them.

import { ModelRunner } from "@readme-moe/engine";
import type { Model } from "@readme-moe/model";
import { median } from "readme-moe/bench";
import { type DecodePast, decodePast, decodeStep } from "../decode-steps.ts";
import type { Answers, Job } from "./jobs.ts";

/** Of a visit: the first step brings caches to where this model would have them. */
const [UNCOUNTED_STEPS, COUNTED_STEPS] = [1, 3] as const;

export async function stepTurns(
  models: readonly Model[],
  job: Extract<Job, { readonly kind: "turns" }>,
): Promise<Answers["turns"]> {
  const runners: ModelRunner[] = [];
  try {
    for (const model of models) runners.push(await ModelRunner.open(model, job));
    const pasts = new Map<string, DecodePast>();
    const times: number[][] = job.entries.map(() => []);
    const places = job.entries.map((_, place) => place);
    // The first round takes memory from the system.
    for (let round = -1; round < job.rounds; round++) {
      for (const place of round % 2 === 0 ? places : places.toReversed()) {
        const { model, distinct } = job.entries[place] as (typeof job.entries)[number];
        const runner = runners[model] as ModelRunner;
        const ms = await visit(runner, pastOf(runner, job, pasts), distinct);
        if (round >= 0) times[place]?.push(ms);
      }
    }
    return times;
  } finally {
    for (const runner of runners) await runner.dispose();
  }
}

/** Every step of a visit has the same past. */
async function visit(runner: ModelRunner, past: DecodePast & { readonly tokens: number }, distinct: number) {
  const samples: number[] = [];
  for (let step = 0; step < UNCOUNTED_STEPS + COUNTED_STEPS; step++) {
    samples.push(await decodeStep(runner, past, distinct, step));
    for (const slot of past.slots) past.pool.truncate(slot, past.tokens);
  }
  return median(samples.slice(UNCOUNTED_STEPS));
}

/** Models whose keys and values look alike share them. */
function pastOf(
  { kvShape }: ModelRunner,
  { numSeqs, past }: { readonly numSeqs: number; readonly past: number },
  known: Map<string, DecodePast>,
): DecodePast & { readonly tokens: number } {
  const key = JSON.stringify(kvShape);
  const own = known.get(key) ?? decodePast(kvShape, { numSeqs, past }, 1);
  known.set(key, own);
  return { ...own, tokens: past };
}
