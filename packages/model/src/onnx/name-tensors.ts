import { layerConfig, type ModelConfig } from "../config/model-config.ts";
import { corrupt, unsupported } from "../files/errors.ts";
import type { RowRange } from "../tensor-store.ts";
import { DataFlow, isProduct, lookedUp } from "./data-flow.ts";
import { type GraphIndex, GraphWeights } from "./graph.ts";
import { biasOf, nameNorms, nameProducts, type Norm, type Part } from "./name-parts.ts";
import { describeNode, type GraphNode, type StoredTensor } from "./proto.ts";
import { isFloat, matrixShape, type Weight } from "./weight.ts";

/** Some rows of a matrix `[out, in]`, or some values of a vector. */
export interface NamedTensor {
  readonly weight: Weight;
  readonly rows: RowRange;
  /** Whether it is a matrix of one row, which is read as a vector. @default false */
  readonly isOneRow?: boolean;
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
  if (config.recurrence)
    throw unsupported(index.path, "has layers without attention; take the checkpoint or a GGUF file");
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

/**
 * Names the weights of an encoder's graph. Exporters keep the names of vectors and tables; a product is named by its
 * bias, or by its output.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when two weights have one name
 */
export function nameEncoder(index: GraphIndex, config: ModelConfig): NamedTensors {
  const flow = new DataFlow(new GraphWeights(index), config);
  const tensors = new Map<string, NamedTensor>();
  const add = (name: string, weight: Weight, isTable = false): void => {
    const known = tensors.get(name);
    if (known && known.weight.values !== weight.values)
      throw corrupt(index.path, `has two weights of the name ${name}`);
    if (known) return;
    const isVector = weight.rows === 1;
    const rows = { from: 0, to: isVector ? weight.columns : matrixShape(weight)[0] };
    tensors.set(name, { weight, rows, isOneRow: isVector && isTable });
  };
  for (const product of flow.products) {
    const bias = biasOf(flow, product);
    const module = bias ? bias.values.name.replace(/\.bias$/, "") : moduleOf(product.node.outputs[0] ?? "");
    add(`${module}.weight`, product.weight);
    if (bias) add(`${module}.bias`, bias);
  }
  for (const node of index.nodes) {
    // Positions are looked up as tokens are, by a constant list.
    const [, table] = (node.type === "Gather" && /^(.*\.weight)(?:_quantized)?$/.exec(node.inputs[0] ?? "")) || [];
    if (table !== undefined) add(table, lookedUp(flow.weights, node).weight, true);
    for (const input of flow.isLive(node) ? node.inputs : []) {
      const weight = flow.weights.of(input);
      if (weight?.rows === 1 && /\.(?:weight|bias)$/.test(weight.values.name)) add(weight.values.name, weight);
    }
  }
  return { tensors, isTied: true, angles: [] };
}

/** Finds the module in the name of its output, such as `/encoder/layers.0/attn/Wqkv/MatMul_output_0`. */
function moduleOf(output: string): string {
  return output.split("/").slice(1, -1).join(".");
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

// Compares what a graph computes with what the config says, as far as numbers of the graph show it. The kernel follows
// the config, so a graph that says otherwise is refused.

/** Nodes between a norm's scales and its epsilon. */
const MAX_NORM_NODES = 24;
// Half precision rounds an epsilon of 1e-6 by 1 %.
const EPSILON_TOLERANCE = 0.1;

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when a norm is no RMS norm with the config's epsilon */
function checkNorm(flow: DataFlow, { rmsNormEpsilon }: ModelConfig, norm: Norm): void {
  const { path } = flow.index;
  const skipBias = norm.node.type.startsWith("Skip") ? (norm.node.inputs[3] ?? "") : "";
  if (skipBias !== "") throw unsupported(path, `${describeNode(norm.node)} adds a bias of its own`);
  const epsilon =
    norm.node.type === "Mul" ? decomposedEpsilon(flow, norm) : (norm.node.attributes.get("epsilon")?.float ?? 1e-5);
  if (epsilon !== undefined && Math.abs(epsilon - rmsNormEpsilon) <= EPSILON_TOLERANCE * rmsNormEpsilon) return;
  const found = epsilon === undefined ? "is no RMS norm" : `has the epsilon ${epsilon}`;
  throw unsupported(path, `${describeNode(norm.node)} ${found}, config.json says ${rmsNormEpsilon}`);
}

/** Finds the constant that is added to the mean of squares; `undefined` for other norms than RMS norms. */
function decomposedEpsilon({ index, weights }: DataFlow, { input }: Norm): number | undefined {
  const todo = [input];
  const seen = new Set<GraphNode>();
  for (let value = todo.shift(); value !== undefined && seen.size < MAX_NORM_NODES; value = todo.shift()) {
    const node = index.producer(value)?.node;
    if (node === undefined || seen.has(node)) continue;
    seen.add(node);
    if (node.type === "Sub") return undefined;
    if (node.type === "Add") {
      const [epsilon] = node.inputs.map((name) => weights.floats(name)).filter((floats) => floats?.length === 1);
      if (epsilon !== undefined) return epsilon[0];
    }
    if (NORM_PARTS.has(node.type)) todo.push(...node.inputs);
  }
  return undefined;
}

const NORM_PARTS: ReadonlySet<string> = new Set(["Cast", "Identity", "Mul", "Div", "Reciprocal", "Sqrt", "Pow", "Add"]);

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when an attention node has other heads or scores than the config */
function checkAttentions({ index, weights }: DataFlow, config: ModelConfig): void {
  for (const node of index.nodes) {
    const isAttention = node.type === "GroupQueryAttention" || node.type === "MultiHeadAttention";
    if (!isAttention && node.type !== "RotaryEmbedding") continue;
    const integer = (name: string): number => node.attributes.get(name)?.integer ?? 0;
    const float = (name: string): number => node.attributes.get(name)?.float ?? 0;
    const wrong = (what: string): Error => unsupported(index.path, `${describeNode(node)} has ${what}`);
    if (integer("interleaved") !== 0 || integer("rotary_interleaved") !== 0) throw wrong("pairs of neighbours rotated");
    if (!isAttention) continue;
    if (integer("num_heads") !== config.numHeads) throw wrong(`${integer("num_heads")} heads, not ${config.numHeads}`);
    if (node.type === "GroupQueryAttention" && integer("kv_num_heads") !== config.numKvHeads) {
      throw wrong(`${integer("kv_num_heads")} heads of keys, not ${config.numKvHeads}`);
    }
    const scale = float("scale") || 1 / Math.sqrt(config.headSize);
    if (Math.abs(scale - config.attentionScale) > 1e-3 * config.attentionScale) throw wrong(`the factor ${scale}`);
    if (float("softcap") !== (config.caps?.scores ?? 0) || integer("smooth_softmax") !== 0)
      throw wrong("another softmax");
    const sinks = node.inputs[11] ?? "";
    if (sinks !== "" && weights.tensor(sinks) !== undefined) throw wrong("attention sinks");
  }
}

/** A constant that angles of positions are computed from, or looked up in. */
export interface Angles {
  readonly tensor: StoredTensor;
  readonly node: GraphNode;
  /** Index in `ModelConfig.ropes` of the angles that its layers have. */
  readonly angleSet: number;
}

/**
 * Lists the constants with angles, and checks that layers have them as the config says.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when keys of a layer are rotated and should not be, or not and should
 */
function anglesOf(flow: DataFlow, config: ModelConfig): readonly Angles[] {
  const found = new Map<StoredTensor, Angles>();
  for (let layer = 0; layer < config.numLayers; layer++) {
    const angles = layerAngles(flow, config, layer);
    const { angleSet } = layerConfig(config, layer);
    if (angles.length > 0 !== (angleSet !== undefined)) {
      const what = angleSet !== undefined ? "finds no constant angles of" : "rotates";
      throw unsupported(flow.index.path, `${what} the keys of layer ${layer}, which config.json does not expect`);
    }
    for (const one of angles) found.set(one.tensor, { ...one, angleSet: angleSet ?? 0 });
  }
  return [...found.values()];
}

function layerAngles(flow: DataFlow, { rotatedSize }: ModelConfig, layer: number): readonly Omit<Angles, "angleSet">[] {
  const { index, weights, products } = flow;
  const ends = new Set(products.map(({ output }) => output));
  const found: Omit<Angles, "angleSet">[] = [];
  const seen = new Set<string>();
  const todo = [`present.${layer}.key`];
  for (let value = todo.pop(); value !== undefined; value = todo.pop()) {
    flow.spend();
    if (seen.has(value) || ends.has(value)) continue;
    seen.add(value);
    const node = index.producer(value)?.node;
    for (const input of node?.inputs ?? []) {
      const tensor = weights.tensor(input);
      if (node !== undefined && tensor !== undefined && isAngles(tensor, rotatedSize)) found.push({ tensor, node });
      else todo.push(input);
    }
  }
  return found;
}

/** Tells frequencies `[rotatedSize / 2]` and tables of one row per position from a key norm's scales. */
function isAngles(tensor: StoredTensor, rotatedSize: number): boolean {
  const long = tensor.shape.filter((size) => size !== 1);
  const [last = 0] = long.slice(-1);
  if (!isFloat(tensor) || long.length === 0 || long.length > 2) return false;
  return long.length === 1 ? last === rotatedSize / 2 : last === rotatedSize / 2 || last === rotatedSize;
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when a node has a weight that no part of the model is */
function refuseLeftOver(flow: DataFlow, claimed: ReadonlySet<StoredTensor>, exempt: readonly Angles[]): void {
  const angles = new Set(exempt.map(({ tensor }) => tensor));
  const taken = new Set([...flow.products, ...flow.tables].map(({ node }) => node));
  for (const end of [...flow.products, ...flow.tables]) {
    if (claimed.has(end.weight.values)) continue;
    const what = isProduct(end) ? "multiplies" : "looks up";
    throw unsupported(
      flow.index.path,
      `${describeNode(end.node)} ${what} weights that the model of config.json has not`,
    );
  }
  for (const node of flow.index.nodes) {
    if (taken.has(node)) continue;
    for (const input of node.inputs) {
      const weight = flow.weights.of(input);
      if (weight === undefined || claimed.has(weight.values) || angles.has(weight.values)) continue;
      if (flow.isLive(node) && weight.rows * weight.columns > SMALL_VECTOR) {
        throw unsupported(flow.index.path, `${describeNode(node)} has weights that the model of config.json has not`);
      }
    }
  }
}

// Lists of factors, such as one per head, are no weights.
const SMALL_VECTOR = 4;
