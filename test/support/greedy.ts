import type { PreGatingRouter } from "@readme-moe/core";
import type { StepRunner } from "@readme-moe/engine";
import { type KvMemory, type KvSlot, wholeBlocks } from "@readme-moe/kernel";

/** KV memory that one sequence of up to `numTokens` fits in. */
export function kvFor(runner: StepRunner, numTokens: number): KvMemory {
  return runner.openKv({ capacityTokens: wholeBlocks(numTokens) });
}

/**
 * The most likely continuation, step by step without an engine: the whole prompt in one piece, then one token at a
 * time, end tokens included.
 */
export async function greedyTokens(
  { runner, router }: { readonly runner: StepRunner; readonly router: PreGatingRouter },
  promptIds: ArrayLike<number>,
  numTokens: number,
): Promise<readonly number[]> {
  const kv = kvFor(runner, promptIds.length + numTokens);
  const slot = kv.admit(promptIds.length + numTokens) as KvSlot;
  const state = router.start();
  const tokens: number[] = [];
  let tokenIds: ArrayLike<number> = promptIds;
  while (tokens.length < numTokens) {
    const [route] = await router.route([{ state, tokenIds }]);
    const experts = route?.experts ?? [];
    const [logits] = await runner.forward(kv, [{ slot, tokenIds, experts, logitsOf: [tokenIds.length - 1] }]);
    tokenIds = [logits?.candidateIds[0] as number];
    tokens.push(tokenIds[0] as number);
  }
  return tokens;
}
