// Runs a job of `steps-job.ts` in its own process.

import { KernelRunner } from "@readme-moe/engine";
import { median } from "../kit/statistics.ts";
import { peakMemoryBytes } from "../engine/process-memory.ts";
import { decodeSteps } from "../decode-steps.ts";
import { randomModel } from "../random-model.ts";
import type { StepsAnswer, StepsJob, StepsMessage } from "./steps-job.ts";

const ROOM_TOKENS = 256;

async function answer(job: StepsJob): Promise<StepsAnswer> {
  const { shape, numExperts, expertSize, precision, threads, cacheFolder, rounds } = job;
  const made = randomModel(shape, numExperts, expertSize);
  const contextTokens = Math.max(...job.cases.map(({ past }) => past)) + ROOM_TOKENS;
  const model = { ...made, config: { ...made.config, contextTokens } };
  const startMs = performance.now();
  const runner = await KernelRunner.open(model, { precision, threads, cacheFolder });
  const openMs = performance.now() - startMs;
  const cases = [];
  for (const one of job.onlyBuilds ? [] : job.cases) {
    const times = await decodeSteps(runner, one, rounds);
    cases.push({ medianMs: median(times), peakBytes: peakMemoryBytes(process.pid) });
  }
  await runner.dispose();
  return { openMs, cases };
}

// The parent is gone, and nothing else would end this process.
process.once("disconnect", () => process.exit());
const message: StepsMessage = await answer(JSON.parse(process.argv[2] ?? "{}") as StepsJob).catch((error: unknown) => ({
  failure: error instanceof Error ? error.message : String(error),
}));
process.send?.(message, () => process.exit());
