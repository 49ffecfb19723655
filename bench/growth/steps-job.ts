// Measures steps of one model in its own process, so that its memory is that of the model and its steps.

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
  /** Cases of this model. */
  readonly cacheFolder: string;
  readonly cases: readonly DecodeCase[];
  /** Measured steps of each case. */
  readonly rounds: number;
  /** Only builds the graph: building takes more memory than running. */
  readonly onlyBuilds?: boolean;
}

export interface StepsAnswer {
  /** Time of opening the graph, and of building it when it is not cached. */
  readonly openMs: number;
  /** Peak memory after each case. */
  readonly cases: readonly { readonly medianMs: number; readonly peakBytes: number }[];
}

export type StepsMessage = StepsAnswer | { readonly failure: string };

/** @throws {Error} with the process's message */
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
