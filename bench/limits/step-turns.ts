// Runs steps of several models by turns in one process: a machine that is slow for seconds slows all of them.

import { KernelRunner, type StepRunner } from "@readme-moe/engine";
import type { Model } from "@readme-moe/model";
import { median } from "../kit/statistics.ts";
import { rewind } from "../../packages/engine/src/step-runner.ts";
import { type DecodePast, decodePast, decodeStep } from "../decode-steps.ts";
import type { Answers, Job } from "./jobs.ts";

/** Uncounted steps of a turn, which load this model into caches. */
const [UNCOUNTED_STEPS, COUNTED_STEPS] = [1, 3] as const;

export async function stepTurns(
  models: readonly Model[],
  job: Extract<Job, { readonly kind: "turns" }>,
): Promise<Answers["turns"]> {
  const runners: StepRunner[] = [];
  try {
    for (const model of models) runners.push(await KernelRunner.open(model, job));
    const pasts: DecodePast[] = [];
    for (const runner of runners) pasts.push(await decodePast(runner, job, 1));
    const times: number[][] = job.entries.map(() => []);
    const places = job.entries.map((_, place) => place);
    // The first round allocates memory.
    for (let round = -1; round < job.rounds; round++) {
      for (const place of round % 2 === 0 ? places : places.toReversed()) {
        const { model, distinct } = job.entries[place] as (typeof job.entries)[number];
        const turn = { pastTokens: job.past, distinct, uncountedSteps: UNCOUNTED_STEPS };
        const ms = await medianStepMs(runners[model] as StepRunner, pasts[model] as DecodePast, turn);
        if (round >= 0) times[place]?.push(ms);
      }
    }
    return times;
  } finally {
    for (const runner of runners) await runner.dispose();
  }
}

/** Steps of one model's turn. */
interface Turn {
  readonly pastTokens: number;
  /** Distinct experts of each step. */
  readonly distinct: number;
  readonly uncountedSteps: number;
}

/** Runs some steps with the same past. @returns their median in milliseconds */
export async function medianStepMs(
  runner: StepRunner,
  past: DecodePast,
  { pastTokens, distinct, uncountedSteps }: Turn,
): Promise<number> {
  const samples: number[] = [];
  for (let step = 0; step < uncountedSteps + COUNTED_STEPS; step++) {
    samples.push(await decodeStep(runner, past, distinct, step));
    for (const slot of past.slots) rewind(past.kv, slot, pastTokens);
  }
  return median(samples.slice(uncountedSteps));
}
