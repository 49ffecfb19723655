// Steps of several models by turns in one process: what slows a machine down for seconds slows all of them.

import { KernelRunner, openStepRunner, type StepRunner } from "@readme-moe/engine";
import type { Model } from "@readme-moe/model";
import { median } from "readme-moe/bench";
import { rewind } from "../../packages/engine/src/rewind.ts";
import { type DecodePast, decodePast, decodeStep } from "../decode-steps.ts";
import type { Answers, Job } from "./jobs.ts";

/** Of a visit: the first step brings caches to where this model would have them. */
const [UNCOUNTED_STEPS, COUNTED_STEPS] = [1, 3] as const;

export async function stepTurns(
  models: readonly Model[],
  job: Extract<Job, { readonly kind: "turns" }>,
): Promise<Answers["turns"]> {
  const runners: StepRunner[] = [];
  try {
    for (const model of models) runners.push(await openStepRunner(model, job));
    const pasts = await pastsOf(runners, job);
    const times: number[][] = job.entries.map(() => []);
    const places = job.entries.map((_, place) => place);
    // The first round takes memory from the system.
    for (let round = -1; round < job.rounds; round++) {
      for (const place of round % 2 === 0 ? places : places.toReversed()) {
        const { model, distinct } = job.entries[place] as (typeof job.entries)[number];
        const ms = await visit(runners[model] as StepRunner, pasts[model] as DecodePast, job.past, distinct);
        if (round >= 0) times[place]?.push(ms);
      }
    }
    return times;
  } finally {
    for (const runner of runners) await runner.dispose();
  }
}

/** Some steps, each with the same past. @returns the median's milliseconds */
export async function visit(
  runner: StepRunner,
  past: DecodePast,
  pastTokens: number,
  distinct: number,
  uncountedSteps: number = UNCOUNTED_STEPS,
): Promise<number> {
  const samples: number[] = [];
  for (let step = 0; step < uncountedSteps + COUNTED_STEPS; step++) {
    samples.push(await decodeStep(runner, past, distinct, step));
    for (const slot of past.slots) rewind(past.kv, slot, pastTokens);
  }
  return median(samples.slice(uncountedSteps));
}

/** Opens a past for each model. Graphs whose keys and values look alike share one; each kernel has pages of its own. */
async function pastsOf(
  runners: readonly StepRunner[],
  sequences: { readonly numSeqs: number; readonly past: number },
): Promise<readonly DecodePast[]> {
  const pasts = new Map<string, DecodePast>();
  const all: DecodePast[] = [];
  for (const [place, runner] of runners.entries()) {
    const { numLayers, numKvHeads, headSize } = runner.model.config;
    const owner = runner instanceof KernelRunner ? place : "graphs";
    const key = `${numLayers} ${numKvHeads} ${headSize} ${owner}`;
    const own = pasts.get(key) ?? (await decodePast(runner, sequences, 1));
    pasts.set(key, own);
    all.push(own);
  }
  return all;
}
