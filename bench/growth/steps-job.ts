// Steps of one model, measured in a process of its own, whose memory is the model's and theirs.

import { join } from "node:path";
import type { Precision } from "@readme-moe/model";
import type { DecodeCase } from "../decode-steps.ts";
import type { Shape } from "../random-model.ts";
import { forkSource } from "../sources.ts";

export interface StepsJob {
  readonly shape: Shape;
  readonly numExperts: number;
  /** Width of each expert's FFN. */
  readonly expertSize: number;
  readonly precision: Precision;
  readonly threads: number;
  /** Of this model alone. */
  readonly cacheFolder: string;
  readonly cases: readonly DecodeCase[];
  /** Steps that are timed, of each case. */
  readonly rounds: number;
  /** Makes the graph, and times nothing: making it takes more memory than running it. */
  readonly onlyBuilds?: boolean;
}

export interface StepsAnswer {
  /** Opening the graph, and making it where it is not cached. */
  readonly openMs: number;
  /** By case, after it: the most that there was so far. */
  readonly cases: readonly { readonly medianMs: number; readonly peakBytes: number }[];
}

export type StepsMessage = StepsAnswer | { readonly failure: string };

/** @throws {Error} with what the process says */
export async function runSteps(job: StepsJob): Promise<StepsAnswer> {
  const message = await new Promise<StepsMessage>((resolve) => {
    const child = forkSource(join(import.meta.dirname, "steps-child.ts"), [JSON.stringify(job)]);
    child.once("message", (answer) => resolve(answer as StepsMessage));
    child.once("error", (error) => resolve({ failure: error.message }));
    child.once("exit", (code, signal) => resolve({ failure: `its process ended with ${signal ?? `code ${code}`}` }));
  });
  if ("failure" in message) throw new Error(message.failure);
  return message;
}
