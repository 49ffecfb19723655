// Brings sequences through a kernel again and again, in other batches each time, and checks every row.

import { KV_PAGE_TOKENS, type KvPrecision } from "@readme-moe/kernel";
import { randomInteger } from "../random.ts";
import { randomSteps, shuffled, type TestSequence } from "./random-steps.ts";
import type { SteppingKernel } from "./routed-steps.ts";
import { checkStep, type Expected } from "./run-steps.ts";

/** What is replayed. */
export interface Replayed {
  readonly sequences: readonly TestSequence[];
  readonly expected: Expected;
  readonly kvPrecision: KvPrecision;
  /** Whether the model has recurrences. @default false */
  readonly hasStates?: boolean;
}

/** Pages of short sequences, of which some stay free. */
const LEAST_PAGES = 24;

/** Replays `times` times in the same pages, which hold what the replay before left there. */
export async function replay(
  kernel: SteppingKernel,
  { sequences, expected, kvPrecision, hasStates = false }: Replayed,
  random: () => number,
  times: number,
): Promise<void> {
  const { numLogits, maxRows, numExperts, numLoras } = expected;
  const used = sequences.reduce((sum, { tokenIds }) => sum + Math.ceil(tokenIds.length / KV_PAGE_TOKENS), 0);
  const numPages = Math.max(LEAST_PAGES, used);
  const numStates = hasStates ? 5 * sequences.length + 2 : 0;
  const pages = kernel.openPages(numPages, kvPrecision, numStates);
  for (let time = 0; time < times; time++) {
    const free = shuffled(
      random,
      Array.from({ length: numPages }, (_, page) => page),
    );
    const states = hasStates
      ? shuffled(
          random,
          Array.from({ length: numStates }, (_, state) => state),
        )
      : undefined;
    const sizes = { pages: free, numLogits, maxRows, numExperts, numLoras, states };
    for (const step of randomSteps(random, sequences, sizes)) {
      checkStep({ kernel, pages }, step, expected, 1 + randomInteger(random, numLogits));
    }
  }
  pages.close();
}
