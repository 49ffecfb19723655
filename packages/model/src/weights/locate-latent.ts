// Finds the tensors of latent attention. Checkpoints have one product of all heads' keys and values, newer GGUF files
// one of each in two stacks.

import { layerHeads, type LatentConfig, type ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import { selectRows, transposed } from "./computed-tensors.ts";
import { type AttentionRefs, type LatentRefs, linearRefs, type LinearRefs, tensorRef } from "./model-weights.ts";
import { matricesOf } from "./tensor-parts.ts";

/**
 * Finds the latent attention of a layer.
 *
 * @param prefix - beginning of its names, such as `model.layers.3.self_attn.`
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or has another shape
 */
export function locateLatent(
  store: TensorStore,
  config: ModelConfig,
  latent: LatentConfig,
  prefix: string,
): AttentionRefs {
  const { hiddenSize, numHeads, rotatedSize, hasOutputBias } = config;
  const { latentSize, plainSize, valueSize, queryRank } = latent;
  const product = (name: string, outSize: number, inSize: number, hasBias = false): LinearRefs =>
    linearRefs(store, `${prefix}${name}`, { outSize, inSize, hasBias });
  const querySize = numHeads * (plainSize + rotatedSize);
  const key = product("kv_a_proj_with_mqa", layerHeads(config, 0).headSize, hiddenSize, hasOutputBias);
  return {
    query: product(queryRank ? "q_b_proj" : "q_proj", querySize, queryRank ?? hiddenSize),
    key,
    value: key,
    output: product("o_proj", hiddenSize, numHeads * valueSize, hasOutputBias),
    queryNorm: undefined,
    keyNorm: tensorRef(store, `${prefix}kv_a_layernorm.weight`, [latentSize]),
    latent: {
      queryLow: queryRank ? product("q_a_proj", queryRank, hiddenSize, hasOutputBias) : undefined,
      queryLowNorm: queryRank ? tensorRef(store, `${prefix}q_a_layernorm.weight`, [queryRank]) : undefined,
      ...(store.has(`${prefix}k_b_proj.weight`)
        ? stackedHeads(store, prefix, numHeads, latent)
        : joinedHeads(product("kv_b_proj", numHeads * (plainSize + valueSize), latentSize), numHeads, latent)),
    },
  };
}

type Heads = Pick<LatentRefs, "queries" | "outputs">;

/** Divides the product of all heads: of each the rows of its keys, which queries take transposed, then its values'. */
function joinedHeads({ weight }: LinearRefs, numHeads: number, latent: LatentConfig): Heads {
  const { latentSize, plainSize, valueSize } = latent;
  const rowsOf = (head: number): number => head * (plainSize + valueSize);
  const heads = Array.from({ length: numHeads }, (_, head) => head);
  return {
    queries: heads.map((head) => {
      const keys = { from: rowsOf(head), to: rowsOf(head) + plainSize };
      return { weight: transposed(weight, keys, [latentSize, plainSize]), bias: undefined };
    }),
    outputs: heads.map((head) => {
      const rows = Array.from({ length: valueSize }, (_, row) => rowsOf(head) + plainSize + row);
      return { weight: selectRows(weight, rows), bias: undefined };
    }),
  };
}

function stackedHeads(store: TensorStore, prefix: string, numHeads: number, latent: LatentConfig): Heads {
  const { latentSize, plainSize, valueSize } = latent;
  const stack = (name: string, rows: number, columns: number): readonly LinearRefs[] =>
    matricesOf(tensorRef(store, `${prefix}${name}.weight`, [numHeads, rows, columns])).map((weight) => ({
      weight,
      bias: undefined,
    }));
  return { queries: stack("k_b_proj", latentSize, plainSize), outputs: stack("v_b_proj", valueSize, latentSize) };
}
