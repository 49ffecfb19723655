// Steps in which every sequence gets one token, without an engine around them.

import type { StepSequence } from "@readme-moe/engine";
import { type KvMemory, type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import type { StepRunner } from "../packages/engine/src/step-runner.ts";

export interface DecodeCase {
  readonly numSeqs: number;
  /** Tokens before the first step, of each sequence. */
  readonly past: number;
  /** Experts that the sequences are dealt to in turn. */
  readonly distinct: number;
}

/** Sequences with tokens behind them. */
export interface DecodePast {
  readonly kv: KvMemory;
  readonly slots: readonly KvSlot[];
}

/** @param moreTokens - that there is room for behind the past of each sequence */
export async function decodePast(
  runner: Pick<StepRunner, "openKv" | "forward">,
  { numSeqs, past }: Pick<DecodeCase, "numSeqs" | "past">,
  moreTokens: number,
): Promise<DecodePast> {
  const room = past + moreTokens;
  const kv = runner.openKv({ capacityTokens: numSeqs * wholeBlocks(room) });
  const slots = Array.from({ length: numSeqs }, () => kv.admit(room) as KvSlot);
  // Pages are the kernel's: tokens have to run.
  for (const slot of slots) {
    const tokenIds = Array.from({ length: past }, (_, index) => 100 + (index % 800));
    if (past > 0) await runner.forward(kv, [{ slot, tokenIds, experts: new Uint16Array(past), logitsOf: [] }]);
  }
  return { kv, slots };
}

/** One token for each sequence. @param round - steps of several rounds have different tokens @returns milliseconds */
export async function decodeStep(
  runner: StepRunner,
  { kv, slots }: DecodePast,
  distinct: number,
  round: number,
): Promise<number> {
  const { vocabSize } = runner.model.config;
  const sequences = slots.map((slot, index): StepSequence => {
    const tokenId = 100 + ((index * 31 + round * 7) % Math.min(900, vocabSize - 100));
    return { slot, tokenIds: [tokenId], experts: [index % distinct], logitsOf: [0] };
  });
  const startMs = performance.now();
  await runner.forward(kv, sequences);
  return performance.now() - startMs;
}

/** Milliseconds of each step, but of those that take memory from the system first. */
export async function decodeSteps(
  runner: StepRunner,
  { distinct, ...sequences }: DecodeCase,
  rounds: number,
  warmUp = 5,
): Promise<readonly number[]> {
  const past = await decodePast(runner, sequences, rounds + warmUp + 1);
  const samples: number[] = [];
  for (let round = 0; round < rounds + warmUp; round++) {
    samples.push(await decodeStep(runner, past, distinct, round));
  }
  return samples.slice(warmUp);
}
