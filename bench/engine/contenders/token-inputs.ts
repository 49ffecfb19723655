/** Constructor of tensors in both versions of transformers.js. */
type TensorOf<Tensor> = new (type: "int64", data: BigInt64Array, dims: readonly number[]) => Tensor;

/** Makes the inputs of prompts of equal length, `[prompts, tokens]`; nothing is masked. */
export function tokenInputs<Tensor>(
  Tensor: TensorOf<Tensor>,
  prompts: readonly (readonly number[])[],
): Record<"input_ids" | "attention_mask", Tensor> {
  const dims = [prompts.length, prompts[0]?.length ?? 0];
  const ids = BigInt64Array.from(prompts.flat(), BigInt);
  const mask = new BigInt64Array(ids.length).fill(1n);
  return { input_ids: new Tensor("int64", ids, dims), attention_mask: new Tensor("int64", mask, dims) };
}
