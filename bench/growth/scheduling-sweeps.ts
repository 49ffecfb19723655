// Scheduling time by the number of waiting and of running sequences.

import { openModel } from "@readme-moe/model";
import type { Figure } from "../kit/samples.ts";
import { interleave, type Interleaved } from "../kit/turns.ts";
import { numbersOf, type SuiteContext } from "../kit/suite.ts";
import { type Queue, SCHEDULERS, schedulingMs } from "./scheduling-time.ts";

export const SCHEDULING_METRICS = {
  /** Waiting sequences vary; as many run as an engine allows by default. */
  waiting: "deciding by those that wait, ms",
  /** Running sequences vary, none waits; a step takes as many as an engine allows by default. */
  running: "deciding by those that run, ms",
  /** Running sequences vary; a step may take all of them. */
  batched: "deciding by those that run, all in a step, ms",
} as const;

/** Scheduler of the sweeps with streamed experts. */
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
            schedulingMs(make(), model, tokenizer, { ...queue, numExperts: NUM_EXPERTS, isStreamed, rounds, seed });
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
