import { candidatesNeeded, needsFullLogits, ReadMeError, type LogitsRow } from "@readme-moe/core";
import type { BatchItem } from "./batch.ts";
import type { KvMemory, KvSlot } from "@readme-moe/kernel";
import { rewind } from "./rewind.ts";
import type { StepRunner } from "./step-runner.ts";

/** What the next token of a sequence is chosen from. */
export interface ItemLogits {
  readonly item: BatchItem;
  readonly row: LogitsRow;
  /** Reads all logits until the next step, where the runner has kept them. */
  readonly readAll?: (() => Float32Array | undefined) | undefined;
}

/** A part of a step, perhaps with all logits, where the sequence's parameters do not ask for them already. */
export type BatchRequest = BatchItem & { readonly wantsFullLogits?: boolean };

export interface ForwardResult {
  readonly logits: readonly ItemLogits[];
  /** Those of the batch whose tokens have run. */
  readonly ran: readonly BatchRequest[];
}

/** Gives rows all their logits; `undefined` where those of one are not kept. */
export function withAllLogits(rows: readonly ItemLogits[]): readonly ItemLogits[] | undefined {
  const whole: ItemLogits[] = [];
  for (const { item, row, readAll } of rows) {
    const fullLogits = readAll?.();
    if (!fullLogits) return undefined;
    whole.push({ item, row: { ...row, fullLogits } });
  }
  return whole;
}

/**
 * One step of the model for a batch. When weights of an expert cannot be read, its sequences run one by one: only those
 * that need the expert fail.
 */
export async function forwardBatch(
  runner: StepRunner,
  kv: KvMemory,
  batch: readonly BatchRequest[],
  onFailed: (item: BatchRequest, error: unknown) => void,
): Promise<ForwardResult> {
  const before = batch.map(({ sequence }) => sequence.numComputedTokens);
  try {
    return { logits: await forwardTogether(runner, kv, batch), ran: batch };
  } catch (error) {
    const isOfOneExpert = error instanceof ReadMeError && error.code === "ERR_FILE_UNREADABLE";
    if (batch.length === 1 || !isOfOneExpert) {
      for (const item of batch) onFailed(item, error);
      return { logits: [], ran: [] };
    }
  }
  batch.forEach(({ sequence }, index) => {
    if (sequence.slot) rewind(kv, sequence.slot, before[index] as number);
  });
  const results: ForwardResult[] = [];
  for (const item of batch) results.push(await forwardBatch(runner, kv, [item], onFailed));
  return { logits: results.flatMap(({ logits }) => logits), ran: results.flatMap(({ ran }) => ran) };
}

/** The logits of those whose known tokens have all run. */
async function forwardTogether(
  runner: StepRunner,
  kv: KvMemory,
  batch: readonly BatchRequest[],
): Promise<readonly ItemLogits[]> {
  const numCandidates = Math.max(
    1,
    ...batch.map(({ sequence, isLast }) => (isLast ? candidatesNeeded(sequence.params) : 1)),
  );
  const stepTokens = batch.reduce((sum, { numTokens }) => sum + numTokens, 0);
  const canReadLater = runner.keepsLogits(stepTokens, batch.filter(({ isLast }) => isLast).length);
  const results = await runner.forward(
    kv,
    batch.map(({ sequence, numTokens, isLast, wantsFullLogits }) => {
      const [from, to] = [sequence.numComputedTokens, sequence.numComputedTokens + numTokens];
      return {
        slot: sequence.slot as KvSlot,
        tokenIds: sequence.tokenIds.slice(from, to),
        experts: sequence.experts.slice(from, to),
        logitsOf: isLast ? [numTokens - 1] : [],
        wantsFullLogits:
          isLast &&
          (wantsFullLogits === true || sequence.processesLogits || needsFullLogits(sequence.params, canReadLater)),
      };
    }),
    numCandidates,
  );
  return batch.flatMap((item, index) => {
    const logits = results[index];
    if (!item.isLast || !logits) return [];
    const { candidateIds, candidateLogits, fullLogits, readRow } = logits;
    const logSumExp = logits.logSumExp[0] as number;
    return {
      item,
      row: { candidateIds, candidateLogits, logSumExp, fullLogits: fullLogits.length > 0 ? fullLogits : undefined },
      readAll: readRow && (() => readRow(0)),
    };
  });
}
