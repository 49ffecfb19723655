import type { PreGatingRouter } from "@readme-moe/core";
import { type ModelRunner } from "@readme-moe/engine";
import { KvPool, type KvSlot, wholeBlocks } from "@readme-moe/model";

/** A pool that one sequence of up to `numTokens` fits in. */
export function poolFor(runner: ModelRunner, numTokens: number): KvPool {
  return new KvPool({ shape: runner.kvShape, capacityTokens: wholeBlocks(numTokens) });
}

/**
 * The most likely continuation, step by step without an engine: the whole prompt in one piece, then one token at a
 * time, end tokens included.
 */
export async function greedyTokens(
  { runner, router }: { readonly runner: ModelRunner; readonly router: PreGatingRouter },
  promptIds: ArrayLike<number>,
  numTokens: number,
): Promise<readonly number[]> {
  const pool = poolFor(runner, promptIds.length + numTokens);
  const slot = pool.admit(promptIds.length + numTokens) as KvSlot;
  const state = router.start();
  const tokens: number[] = [];
  let tokenIds: ArrayLike<number> = promptIds;
  while (tokens.length < numTokens) {
    const [route] = await router.route([{ state, tokenIds }]);
    const experts = route?.experts ?? [];
    const [logits] = await runner.forward(pool, [{ slot, tokenIds, experts, logitsOf: [tokenIds.length - 1] }]);
    tokenIds = [logits?.candidateIds[0] as number];
    tokens.push(tokenIds[0] as number);
  }
  return tokens;
}
