import type { ModelConfig } from "../config/model-config.ts";
import { corrupt } from "../files/errors.ts";
import type { RowRange } from "../tensor-store.ts";
import { anglesOf, type Angles, checkAttentions, checkNorm, refuseLeftOver } from "./check-graph.ts";
import { DataFlow } from "./data-flow.ts";
import type { GraphIndex } from "./graph-index.ts";
import { GraphWeights } from "./graph-weights.ts";
import { nameProducts, type Part } from "./name-products.ts";
import { biasOf, nameNorms, type Norm } from "./name-vectors.ts";
import type { StoredTensor } from "./stored-tensor.ts";
import { matrixShape, type Weight } from "./weight.ts";

/** Some rows of a matrix `[out, in]`, or some values of a vector. */
export interface NamedTensor {
  readonly weight: Weight;
  readonly rows: RowRange;
}

export interface NamedTensors {
  /** Tensors by the names of checkpoints. */
  readonly tensors: ReadonlyMap<string, NamedTensor>;
  /** Whether the head is the embedding table. */
  readonly isTied: boolean;
  /** Constants with angles of positions, whose values are still to be compared with the config's. */
  readonly angles: readonly Angles[];
}

/**
 * Names the weights of a graph as checkpoints do.
 *
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` or `ERR_FILE_CORRUPT`, when the graph is not the config's model
 */
export function nameTensors(index: GraphIndex, config: ModelConfig): NamedTensors {
  const flow = new DataFlow(new GraphWeights(index), config);
  const { embedding, head, layers } = nameProducts(flow, config);
  const norms = nameNorms(flow, { embedding, head, layers });
  const tensors = new Map<string, NamedTensor>();
  const add = (name: string, weight: Weight, rows?: RowRange): void => {
    const numRows = weight.rows === 1 ? weight.columns : matrixShape(weight)[0];
    const { from, to } = rows ?? { from: 0, to: numRows };
    if (from < 0 || from >= to || to > numRows) throw corrupt(index.path, `takes rows ${from} to ${to} as ${name}`);
    tensors.set(name, { weight, rows: { from, to } });
  };
  const addNorm = (name: string, norm: Norm | undefined): void => {
    if (norm === undefined) return;
    checkNorm(flow, config, norm);
    add(`${name}.weight`, norm.scale);
  };
  const addPart = (name: string, { product, rows }: Part): void => {
    add(`${name}.weight`, product.weight, rows);
    const bias = biasOf(flow, product);
    if (bias !== undefined) add(`${name}.bias`, bias, rows);
  };

  add("model.embed_tokens.weight", embedding.weight);
  for (const [layer, { query, key, value, output, gate, up, down }] of layers.entries()) {
    const prefix = `model.layers.${layer}`;
    const own = norms.layers[layer];
    for (const part of ["attention", "attentionOutput", "ffn", "ffnOutput"] as const) {
      const name = config.norms[part];
      if (name !== undefined) addNorm(`${prefix}.${name}`, own?.[part]);
    }
    addPart(`${prefix}.self_attn.q_proj`, query);
    addPart(`${prefix}.self_attn.k_proj`, key);
    addPart(`${prefix}.self_attn.v_proj`, value);
    addPart(`${prefix}.self_attn.o_proj`, output);
    addNorm(`${prefix}.self_attn.q_norm`, own?.query);
    addNorm(`${prefix}.self_attn.k_norm`, own?.key);
    addPart(`${prefix}.mlp.gate_proj`, gate);
    addPart(`${prefix}.mlp.up_proj`, up);
    addPart(`${prefix}.mlp.down_proj`, down);
  }
  addNorm("model.norm", norms.final);
  const isTied = isSame(embedding.weight, head.weight);
  if (!isTied) add("lm_head.weight", head.weight);

  checkAttentions(flow, config);
  const angles = anglesOf(flow, config);
  refuseLeftOver(flow, new Set(partsOf([...tensors.values(), { weight: head.weight }])), angles);
  return { tensors, isTied, angles };
}

function isSame(a: Weight, b: Weight): boolean {
  const [[aOut, aIn], [bOut, bIn]] = [matrixShape(a), matrixShape(b)];
  const isSameScale = a.levels?.scales === b.levels?.scales && a.levels?.zeros?.tensor === b.levels?.zeros?.tensor;
  return a.values === b.values && isSameScale && aOut === bOut && aIn === bIn && a.isTransposed === b.isTransposed;
}

/** Lists the stored tensors that weights consist of. */
function* partsOf(named: Iterable<Pick<NamedTensor, "weight">>): Generator<StoredTensor> {
  for (const { weight } of named) {
    yield weight.values;
    if (weight.levels === undefined) continue;
    yield weight.levels.scales;
    if (weight.levels.zeros !== undefined) yield weight.levels.zeros.tensor;
  }
}
