// Time that deciding takes, over who waits and over who runs.

import { openModel } from "@readme-moe/model";
import type { Figure } from "../kit/samples.ts";
import { interleave, type Interleaved } from "../kit/turns.ts";
import { numbersOf, type SuiteContext } from "../kit/suite.ts";
import { type Queue, SCHEDULERS, schedulingMs } from "./scheduling-time.ts";

export const SCHEDULING_METRICS = {
  /** With as many sequences running as an engine has by default. */
  waiting: "deciding by those that wait, ms",
  /** With nobody waiting; as many in a step as an engine has by default. */
  running: "deciding by those that run, ms",
  /** All that run may be in one step. */
  batched: "deciding by those that run, all in a step, ms",
} as const;

/** Where that differs: experts come and go. */
export const STREAMED = ", experts come and go";
const DEFAULT_SEQS = 32;
const NUM_EXPERTS = 7;

export async function measureScheduling(context: SuiteContext): Promise<Interleaved> {
  const { settings } = context;
  const counts = numbersOf(settings, "queue", settings.quick ? [16, 256, 1024] : [16, 64, 256, 1024]);
  const rounds = settings.quick ? 20 : 200;
  const model = await openModel(settings.dense ?? settings.model);
  try {
    const { tokenizer } = await model.loadText();
    const variants = Object.entries(SCHEDULERS).flatMap(([name, make]) =>
      [false, true].map((isStreamed) => ({
        name: name + (isStreamed ? STREAMED : ""),
        measure: async (seed: number): Promise<readonly Figure[]> => {
          const timed = (queue: Pick<Queue, "numRunning" | "numBatched" | "numWaiting">): number =>
            schedulingMs(make(), model, tokenizer, { ...queue, numExperts: NUM_EXPERTS, isStreamed }, rounds, seed);
          const shared = { numRunning: DEFAULT_SEQS, numBatched: DEFAULT_SEQS, numWaiting: 0 };
          return counts.flatMap((at) => [
            { metric: SCHEDULING_METRICS.waiting, at, value: timed({ ...shared, numWaiting: at }) },
            { metric: SCHEDULING_METRICS.running, at, value: timed({ ...shared, numRunning: at }) },
            { metric: SCHEDULING_METRICS.batched, at, value: timed({ ...shared, numRunning: at, numBatched: at }) },
          ]);
        },
      })),
    );
    return await interleave(context, "scheduling", variants);
  } finally {
    await model.close();
  }
}
