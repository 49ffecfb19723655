import type { Model } from "@readme-moe/model";
import { plainLogits } from "./plain-decoder.ts";

/** Log-probability of `tokenIds[index]` given those before it, for each index from `from` on. */
export async function plainLogProbs(
  model: Model,
  tokenIds: readonly number[],
  experts: ArrayLike<number>,
  from: number,
): Promise<readonly number[]> {
  const logits = await plainLogits(model, tokenIds.slice(0, -1), experts);
  return tokenIds.slice(from).map((target, index) => {
    const row = logits[from + index - 1] as Float64Array;
    const top = Math.max(...row);
    return (row[target] as number) - top - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
  });
}
