// Decode steps, in which every sequence gets one token, without an engine around them.

import type { StepSequence } from "@readme-moe/engine";
import { type KvMemory, type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import type { StepRunner } from "../packages/engine/src/step-runner.ts";

export interface DecodeCase {
  readonly numSeqs: number;
  /** Tokens of each sequence before the first step. */
  readonly past: number;
  /** Experts that the sequences are assigned to in turn. */
  readonly distinct: number;
}

/** Sequences with a past. */
export interface DecodePast {
  readonly kv: KvMemory;
  readonly slots: readonly KvSlot[];
}

/** @param moreTokens - tokens of each sequence that memory is reserved for after its past */
export async function decodePast(
  runner: Pick<StepRunner, "openKv" | "forward">,
  { numSeqs, past }: Pick<DecodeCase, "numSeqs" | "past">,
  moreTokens: number,
): Promise<DecodePast> {
  const room = past + moreTokens;
  const kv = runner.openKv({ capacityTokens: numSeqs * wholeBlocks(room) });
  const slots = Array.from({ length: numSeqs }, () => kv.admit(room) as KvSlot);
  // The kernel owns the pages of keys and values: the tokens of the past have to run.
  for (const slot of slots) {
    const tokenIds = Array.from({ length: past }, (_, index) => 100 + (index % 800));
    if (past > 0) await runner.forward(kv, [{ slot, tokenIds, experts: new Uint16Array(past), logitsOf: [] }]);
  }
  return { kv, slots };
}

/** Runs one token of each sequence. @param round - decides the tokens @returns milliseconds */
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

/** Measures each step in milliseconds, after steps that allocate memory. */
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
