// Runs decode steps of one sequence and memory reads by turns: other guests of a shared machine slow both down equally.

import { KernelRunner } from "@readme-moe/engine";
import type { Model } from "@readme-moe/model";
import { decodePast } from "../decode-steps.ts";
import type { Answers, Job, ReadingRound } from "./jobs.ts";
import { MemoryReaders } from "./memory-readers.ts";
import { stepCost } from "./step-cost.ts";
import { medianStepMs } from "./step-turns.ts";

/** Uncounted steps of a turn, which load the model's weights back into caches. */
const UNCOUNTED_STEPS = 2;
/** Bytes that a thread reads in a turn; shared caches of virtual machines have up to 300 MB. */
const READ_BYTES = 256 << 20;

export async function readTurns(
  model: Model,
  job: Extract<Job, { readonly kind: "reading" }>,
): Promise<Answers["reading"]> {
  const runner = await KernelRunner.open(model, job);
  const readers = new MemoryReaders(job.threads, READ_BYTES, "search");
  const rounds: ReadingRound[] = [];
  try {
    const past = await decodePast(runner, { numSeqs: 1, past: job.past }, 1);
    const { weightBytes, kvBytes } = stepCost(model, job.precision, { numSeqs: 1, past: job.past, distinct: 1 });
    // The first round allocates memory.
    for (let round = -1; round < job.rounds; round++) {
      const before = await readers.read();
      const stepMs = await medianStepMs(runner, past, {
        pastTokens: job.past,
        distinct: 1,
        uncountedSteps: UNCOUNTED_STEPS,
      });
      const readGBPerS = (before + (await readers.read())) / 2;
      if (round >= 0) rounds.push({ stepMs, readGBPerS, stepGBPerS: (weightBytes + kvBytes) / stepMs / 1e6 });
    }
    return rounds;
  } finally {
    await readers.dispose();
    await runner.dispose();
  }
}
