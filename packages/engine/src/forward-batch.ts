import { candidatesNeeded, needsFullLogits, type LogitsRow } from "@readme-moe/core";
import type { BatchItem } from "./batch.ts";
import type { KvPool, KvSlot } from "@readme-moe/model";
import type { ModelRunner } from "./model-runner.ts";

/** What the next token of a sequence is chosen from. */
export interface ItemLogits {
  readonly item: BatchItem;
  readonly row: LogitsRow;
}

/** A part of a step, perhaps with all logits, where the sequence's parameters do not ask for them already. */
export type BatchRequest = BatchItem & { readonly wantsFullLogits?: boolean };

/** One step of the graph for a batch; the logits of those whose known tokens have all run. */
export async function forwardBatch(
  runner: ModelRunner,
  pool: KvPool,
  batch: readonly BatchRequest[],
): Promise<readonly ItemLogits[]> {
  const numCandidates = Math.max(
    1,
    ...batch.map(({ sequence, isLast }) => (isLast ? candidatesNeeded(sequence.params) : 1)),
  );
  const results = await runner.forward(
    pool,
    batch.map(({ sequence, numTokens, isLast, wantsFullLogits }) => {
      const [from, to] = [sequence.numComputedTokens, sequence.numComputedTokens + numTokens];
      return {
        slot: sequence.slot as KvSlot,
        tokenIds: sequence.tokenIds.slice(from, to),
        experts: sequence.experts.slice(from, to),
        logitsOf: isLast ? [numTokens - 1] : [],
        wantsFullLogits:
          isLast && (wantsFullLogits === true || sequence.processesLogits || needsFullLogits(sequence.params)),
      };
    }),
    numCandidates,
  );
  return batch.flatMap((item, index) => {
    const logits = results[index];
    if (!item.isLast || !logits) return [];
    const { candidateIds, candidateLogits, fullLogits } = logits;
    const logSumExp = logits.logSumExp[0] as number;
    return {
      item,
      row: { candidateIds, candidateLogits, logSumExp, fullLogits: fullLogits.length > 0 ? fullLogits : undefined },
    };
  });
}
