// Mixtures of any shape with random weights, as folders in the namings in which checkpoints come.

import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { crc32 } from "node:zlib";
import { encodeFloats, writeSafetensors } from "@readme-moe/model";
import { randomNormal, seededRandom } from "./random.ts";
import { WITH_TOKENIZER } from "./tiny-read-me.ts";

/** Shape of a mixture; weights follow from `seed` and from each tensor's place, whatever the naming. */
export interface MixtureShape {
  readonly modelType: "mixtral" | "qwen3_moe" | "olmoe" | "granitemoe";
  readonly seed: number;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly headSize: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly numLayers: number;
  readonly numExperts: number;
  readonly expertsPerToken: number;
  readonly expertSize: number;
  /** Layers with one FFN, for `qwen3_moe`. @default none */
  readonly denseLayers?: readonly number[];
  /** For `qwen3_moe` and `olmoe`; the others always normalise. @default false */
  readonly normalizesWeights?: boolean;
}

/** Names in which checkpoints hold routers and experts. */
export type ExpertNaming = "w1, w2, w3" | "gate_proj, up_proj, down_proj" | "gate_up_proj" | "input_linear";

/** Ways to write a mixture. */
interface MixtureFiles {
  /** @default "gate_proj, up_proj, down_proj" */
  readonly naming?: ExpertNaming;
  /** Number of safetensors files. @default 1 */
  readonly numShards?: number;
  /** Whether the pocket model's tokenizer is beside the weights; it needs `vocabSize` 4,096. @default false */
  readonly hasTokenizer?: boolean;
}

export const TINY_MIXTURE: MixtureShape = {
  modelType: "mixtral",
  seed: 1,
  vocabSize: 96,
  hiddenSize: 32,
  headSize: 8,
  numHeads: 4,
  numKvHeads: 2,
  numLayers: 3,
  numExperts: 5,
  expertsPerToken: 2,
  expertSize: 24,
};

/** A tensor of a checkpoint. */
interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** Writes a folder. Its numbers are the same in each naming. */
export async function writeRandomMixture(path: string, shape: MixtureShape, files: MixtureFiles = {}): Promise<void> {
  const { numShards = 1, hasTokenizer = false } = files;
  const tensors = tensorsOf(shape, files.naming ?? "gate_proj, up_proj, down_proj");
  await mkdir(path, { recursive: true });
  await writeFile(join(path, "config.json"), JSON.stringify(mixtureConfig(shape)));
  if (hasTokenizer) for (const file of WITH_TOKENIZER.copies) await copyFile(file, join(path, basename(file)));
  if (numShards === 1) return writeTensors(join(path, "model.safetensors"), tensors);
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < numShards; shard++) {
    // Neighbours are in different files, the experts of a layer included.
    const own = tensors.filter((_, index) => index % numShards === shard);
    const name = `model-${shard}.safetensors`;
    for (const tensor of own) weightMap[tensor.name] = name;
    await writeTensors(join(path, name), own);
  }
  await writeFile(join(path, "model.safetensors.index.json"), JSON.stringify({ weight_map: weightMap }));
}

/** Makes the config.json of a shape. */
function mixtureConfig(shape: MixtureShape): Readonly<Record<string, unknown>> {
  return {
    model_type: shape.modelType,
    vocab_size: shape.vocabSize,
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.modelType === "qwen3_moe" ? 2 * shape.expertSize : shape.expertSize,
    moe_intermediate_size: shape.expertSize,
    num_hidden_layers: shape.numLayers,
    num_attention_heads: shape.numHeads,
    num_key_value_heads: shape.numKvHeads,
    head_dim: shape.headSize,
    max_position_embeddings: 512,
    [shape.modelType === "olmoe" ? "num_experts" : "num_local_experts"]: shape.numExperts,
    num_experts_per_tok: shape.expertsPerToken,
    norm_topk_prob: shape.normalizesWeights ?? false,
    mlp_only_layers: shape.denseLayers ?? [],
    ...(shape.modelType === "granitemoe"
      ? { embedding_multiplier: 3, residual_multiplier: 0.4, attention_multiplier: 0.2, logits_scaling: 2 }
      : {}),
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
  };
}

function writeTensors(path: string, tensors: readonly NamedTensor[]): Promise<void> {
  return writeSafetensors(
    path,
    tensors.map(({ name, shape, values }) => ({
      name,
      shape,
      type: "F32",
      bytes: async () => encodeFloats(values, "F32"),
    })),
  );
}

function tensorsOf(shape: MixtureShape, naming: ExpertNaming): readonly NamedTensor[] {
  const { vocabSize, hiddenSize, headSize, numHeads, numKvHeads, modelType, denseLayers = [] } = shape;
  const [querySize, keySize] = [numHeads * headSize, numKvHeads * headSize];
  const matrix = (name: string, numOut: number, numIn: number): NamedTensor => weight(shape, name, [numOut, numIn]);
  const norm = (name: string, size: number): NamedTensor => ({
    name,
    shape: [size],
    values: randomValues(shape, name, size).map((value) => 1 + 0.2 * value),
  });
  const headNorms: Readonly<Record<string, readonly [query: number, key: number]>> = {
    qwen3_moe: [headSize, headSize],
    olmoe: [querySize, keySize],
  };
  const layers = Array.from({ length: shape.numLayers }, (_, layer) => {
    const prefix = `model.layers.${layer}.`;
    const attention = `${prefix}self_attn.`;
    const norms = headNorms[modelType];
    return [
      norm(`${prefix}input_layernorm.weight`, hiddenSize),
      matrix(`${attention}q_proj.weight`, querySize, hiddenSize),
      matrix(`${attention}k_proj.weight`, keySize, hiddenSize),
      matrix(`${attention}v_proj.weight`, keySize, hiddenSize),
      matrix(`${attention}o_proj.weight`, hiddenSize, querySize),
      ...(norms ? [norm(`${attention}q_norm.weight`, norms[0]), norm(`${attention}k_norm.weight`, norms[1])] : []),
      norm(`${prefix}post_attention_layernorm.weight`, hiddenSize),
      ...(denseLayers.includes(layer) ? denseTensors(shape, prefix) : mixtureTensors(shape, prefix, naming)),
    ];
  });
  return [
    matrix("model.embed_tokens.weight", vocabSize, hiddenSize),
    ...layers.flat(),
    norm("model.norm.weight", hiddenSize),
    matrix("lm_head.weight", vocabSize, hiddenSize),
  ];
}

function denseTensors(shape: MixtureShape, prefix: string): readonly NamedTensor[] {
  const [hidden, size] = [shape.hiddenSize, 2 * shape.expertSize];
  return [
    weight(shape, `${prefix}mlp.gate_proj.weight`, [size, hidden]),
    weight(shape, `${prefix}mlp.up_proj.weight`, [size, hidden]),
    weight(shape, `${prefix}mlp.down_proj.weight`, [hidden, size]),
  ];
}

function mixtureTensors(shape: MixtureShape, prefix: string, naming: ExpertNaming): readonly NamedTensor[] {
  const { numExperts, hiddenSize, expertSize } = shape;
  const experts = Array.from({ length: numExperts }, (_, expert) => ({
    gate: weight(shape, `${prefix}${expert}.gate`, [expertSize, hiddenSize]),
    up: weight(shape, `${prefix}${expert}.up`, [expertSize, hiddenSize]),
    down: weight(shape, `${prefix}${expert}.down`, [hiddenSize, expertSize]),
  }));
  const router = weight(shape, `${prefix}router`, [numExperts, hiddenSize]);
  const named = (name: string, tensor: NamedTensor): NamedTensor => ({ ...tensor, name: `${prefix}${name}` });
  const separate = (module: string, [gate, up, down]: readonly [string, string, string]): readonly NamedTensor[] => [
    named(`${module}.gate.weight`, router),
    ...experts.flatMap((own, expert) => [
      named(`${module}.experts.${expert}.${gate}.weight`, own.gate),
      named(`${module}.experts.${expert}.${up}.weight`, own.up),
      named(`${module}.experts.${expert}.${down}.weight`, own.down),
    ]),
  ];
  const gateUp = stacked(
    experts.flatMap(({ gate, up }) => [gate, up]),
    [numExperts, 2 * expertSize, hiddenSize],
  );
  const down = stacked(
    experts.map((own) => own.down),
    [numExperts, hiddenSize, expertSize],
  );
  switch (naming) {
    case "w1, w2, w3":
      return separate("block_sparse_moe", ["w1", "w3", "w2"]);
    case "gate_proj, up_proj, down_proj":
      return separate("mlp", ["gate_proj", "up_proj", "down_proj"]);
    case "gate_up_proj":
      return [
        named("mlp.gate.weight", router),
        named("mlp.experts.gate_up_proj", gateUp),
        named("mlp.experts.down_proj", down),
      ];
    case "input_linear":
      return [
        named("block_sparse_moe.router.layer.weight", router),
        named("block_sparse_moe.input_linear.weight", gateUp),
        named("block_sparse_moe.output_linear.weight", down),
      ];
    default:
      throw new TypeError(`Unknown naming: ${String(naming satisfies never)}`);
  }
}

function weight(shape: MixtureShape, name: string, size: readonly [numOut: number, numIn: number]): NamedTensor {
  const [numOut, numIn] = size;
  const values = randomValues(shape, name, numOut * numIn).map((value) => value / Math.sqrt(numIn));
  return { name, shape: size, values };
}

function stacked(tensors: readonly NamedTensor[], shape: readonly number[]): NamedTensor {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  let at = 0;
  for (const tensor of tensors) {
    values.set(tensor.values, at);
    at += tensor.values.length;
  }
  return { name: "", shape, values };
}

function randomValues({ seed }: MixtureShape, name: string, length: number): Float32Array {
  const random = seededRandom(crc32(name) ^ seed);
  return Float32Array.from({ length }, () => randomNormal(random));
}
