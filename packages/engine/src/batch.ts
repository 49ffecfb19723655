// A batch: the sequences of one step, and their run through the model.

import {
  candidatesNeeded,
  needsFullLogits,
  ReadMeError,
  type LogitsRow,
  type ScheduledSequence,
} from "@readme-moe/core";
import type { KvMemory, KvSlot } from "@readme-moe/kernel";
import type { Sequence } from "./sequence.ts";
import { rewind, type StepRunner } from "./step-runner.ts";

/** One sequence's part in a step. */
export interface BatchItem {
  readonly sequence: Sequence;
  /** Number of tokens that run, beginning with the first one that is not computed yet. */
  readonly numTokens: number;
  /** Whether these are the sequence's last known tokens, so that its next token is chosen after the step. */
  readonly isLast: boolean;
  /** Whether all logits are wanted, even if the sequence's parameters do not need them. @default false */
  readonly wantsFullLogits?: boolean;
}

/**
 * Converts a schedule to a batch.
 * @throws {RangeError} if the scheduler chose a sequence that does not run, or tokens that it does not have
 */
export function batchItems(
  scheduled: readonly ScheduledSequence[],
  running: ReadonlyMap<string, Sequence>,
): readonly BatchItem[] {
  return scheduled.map(({ id, numTokens }) => {
    const sequence = running.get(id);
    if (!sequence) throw new RangeError(`Expected the scheduler to choose from sequences that run, got \`${id}\``);
    const end = sequence.numComputedTokens + numTokens;
    if (numTokens < 1 || end > sequence.numTokens) {
      throw new RangeError(`Expected the scheduler to choose tokens that ${id} has, got ${numTokens}`);
    }
    return { sequence, numTokens, isLast: end === sequence.numTokens };
  });
}

/** Finds the distinct experts of a step. */
export function expertsOf(batch: readonly BatchItem[]): ReadonlySet<number> {
  return new Set(
    batch.flatMap(({ sequence, numTokens }) => {
      const from = sequence.numComputedTokens;
      return sequence.experts.slice(from, from + numTokens);
    }),
  );
}

/** The logits from which a sequence's next token is chosen. */
export interface ItemLogits {
  readonly item: BatchItem;
  readonly row: LogitsRow;
  /** Reads all logits until the next step, if the runner has kept them. */
  readonly readAll?: (() => Float32Array | undefined) | undefined;
}

/** Result of a batch. */
export interface ForwardResult {
  /** One for each item whose known tokens have all run. */
  readonly logits: readonly ItemLogits[];
  /** The items whose tokens have run; the others have failed. */
  readonly ran: readonly BatchItem[];
}

/** Adds all logits to rows; `undefined` if the runner has not kept those of one row. */
export function withAllLogits(rows: readonly ItemLogits[]): readonly ItemLogits[] | undefined {
  const whole: ItemLogits[] = [];
  for (const { item, row, readAll } of rows) {
    const fullLogits = readAll?.();
    if (!fullLogits) return undefined;
    whole.push({ item, row: { ...row, fullLogits } });
  }
  return whole;
}

/** Runs a batch once more, for all logits of its items' last tokens. */
export function forwardAgain(
  runner: StepRunner,
  kv: KvMemory,
  batch: readonly BatchItem[],
  onFailed: (sequence: Sequence, error: unknown) => void,
): Promise<ForwardResult> {
  for (const { sequence, numTokens } of batch) {
    if (sequence.slot) rewind(kv, sequence.slot, sequence.numComputedTokens - numTokens);
  }
  const again = batch.map((item) => ({ ...item, wantsFullLogits: true }));
  return forwardBatch(runner, kv, again, onFailed);
}

/**
 * Runs one step of the model for a batch. If weights of an expert cannot be read, the batch's sequences run one by
 * one, so that only those fail that need the expert.
 */
export async function forwardBatch(
  runner: StepRunner,
  kv: KvMemory,
  batch: readonly BatchItem[],
  onFailed: (sequence: Sequence, error: unknown) => void,
): Promise<ForwardResult> {
  const before = batch.map(({ sequence }) => [sequence, sequence.numComputedTokens] as const);
  try {
    return { logits: await forwardTogether(runner, kv, batch), ran: batch };
  } catch (error) {
    const isOfOneExpert = error instanceof ReadMeError && error.code === "ERR_FILE_UNREADABLE";
    if (batch.length === 1 || !isOfOneExpert) {
      for (const { sequence } of batch) onFailed(sequence, error);
      return { logits: [], ran: [] };
    }
  }
  for (const [{ slot }, numComputedTokens] of before) if (slot) rewind(kv, slot, numComputedTokens);
  const results: ForwardResult[] = [];
  for (const item of batch) results.push(await forwardBatch(runner, kv, [item], onFailed));
  return { logits: results.flatMap(({ logits }) => logits), ran: results.flatMap(({ ran }) => ran) };
}

async function forwardTogether(
  runner: StepRunner,
  kv: KvMemory,
  batch: readonly BatchItem[],
): Promise<readonly ItemLogits[]> {
  const last = batch.filter(({ isLast }) => isLast);
  const numCandidates = Math.max(1, ...last.map(({ sequence }) => candidatesNeeded(sequence.params, sequence.isBound)));
  const stepTokens = batch.reduce((sum, { numTokens }) => sum + numTokens, 0);
  const canReadLater = runner.keepsLogits(stepTokens, last.length);
  const sequences = batch.map(({ sequence, numTokens, isLast, wantsFullLogits = false }) => {
    const { params, processesLogits, isBound, numComputedTokens: from } = sequence;
    const needsAll = wantsFullLogits || processesLogits || needsFullLogits(params, canReadLater, isBound);
    return {
      slot: slotOf(sequence),
      tokenIds: sequence.tokenIds.slice(from, from + numTokens),
      experts: sequence.experts.slice(from, from + numTokens),
      logitsOf: isLast ? [numTokens - 1] : [],
      wantsFullLogits: isLast && needsAll,
    };
  });
  const results = await runner.forward(kv, sequences, numCandidates);
  return batch.flatMap((item, index) => {
    const logits = results[index];
    if (!item.isLast || !logits) return [];
    const { candidateIds, candidateLogits, logSumExp, fullLogits, readRow } = logits;
    const row = {
      candidateIds,
      candidateLogits,
      logSumExp: logSumExp[0] ?? Number.NaN,
      fullLogits: fullLogits.length > 0 ? fullLogits : undefined,
    };
    return { item, row, readAll: readRow && (() => readRow(0)) };
  });
}

function slotOf({ id, slot }: Sequence): KvSlot {
  if (slot) return slot;
  throw new Error(`The sequence ${id} is in a batch and has no KV memory`);
}
