// Exports a model to a folder for transformers.js: its graph, and the files beside it.

import { copyFile, link, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import {
  exportedConfig,
  exportedGenerationConfig,
  exportedText,
  type JsonObject,
  type Model,
  readJsonFile,
  textConfig,
  toJson,
  writeFileAtomically,
  writeFolderAtomically,
  decoderActivation,
  type LayerRefs,
  type ModelConfig,
  layerConfig,
  ropeFrequencies,
  ropeScale,
} from "@readme-moe/model";
import {
  attentionHalf,
  attentionWeights,
  feedForwardHalf,
  feedForwardNorms,
  feedForwardWeights,
  type LayerOperations,
  type NamedWeights,
} from "../graphs/decoder-layer.ts";
import { refuseMixture } from "../job/refactor-job.ts";
import { dataChunks, encodeGraph, encodeWhole, type OnnxVersion, nameOutputs } from "../graphs/encode.ts";
import { type Graph, GraphBuilder, type Value } from "../graphs/graph-builder.ts";
import {
  Add,
  Mul,
  Pow,
  Reshape,
  Sigmoid,
  Tanh,
  And,
  CastTo,
  Concat,
  Cos,
  LessOrEqual,
  MatMul,
  Neg,
  Range,
  Shape,
  Sin,
  Slice,
  Softmax,
  Squeeze,
  Sub,
  Transpose,
  Unsqueeze,
  Where,
} from "../graphs/operators.ts";
import { type ExportDtype, ExportWeights } from "./export-weights.ts";

/** Precisions of exported models, by their names in transformers.js. */
export const EXPORT_DTYPES: readonly ExportDtype[] = ["fp32", "q8", "q4"];

/** Options of `exportTransformersJs`. */
export interface ExportOptions {
  /** Precisions of the written graphs, at least one. @default all */
  readonly dtypes?: readonly ExportDtype[] | undefined;
  /** Largest size of a graph with its weights inside; larger ones have a separate file of weights. @default 2 GB */
  readonly maxWholeBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ExportProgress) => void) | undefined;
}

/** Progress of an export with one file. */
export interface ExportProgress {
  /** File that is being written, relative to the folder. */
  readonly file: string;
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Written file, relative to the folder. */
export interface ExportedFile {
  readonly name: string;
  readonly bytes: number;
}

// onnxruntime 1.14, which @xenova/transformers 2 depends on, reads this version; other exporters write it, too.
const VERSION: OnnxVersion = { ir: 8, opset: 18 };
const SUFFIXES: Readonly<Record<ExportDtype, string>> = { fp32: "", q8: "_quantized", q4: "_q4" };
// A protobuf message must stay under 2 ** 31 bytes.
const MAX_WHOLE_BYTES = 2_000_000_000;
const MAX_CONFIG_BYTES = 16 << 20;

/**
 * Writes a dense model in the layout of transformers.js, whole or not at all.
 *
 * `@xenova/transformers` 2 asks for `decoder_model_merged*.onnx`; those are links to the same files.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @returns the files in it
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for mixtures of experts; `ERR_WRITE_FAILED`; as `model.loadText`
 */
export async function exportTransformersJs(
  model: Model,
  path: string,
  options: ExportOptions = {},
): Promise<readonly ExportedFile[]> {
  const { dtypes = EXPORT_DTYPES, maxWholeBytes = MAX_WHOLE_BYTES, signal, onProgress } = options;
  if (dtypes.length === 0) throw new TypeError("Expected `dtypes` to name at least one");
  refuseMixture(model, "transformers.js has no graph for it; only dense models can be exported");
  signal?.throwIfAborted();
  const texts = new Map(await exportedText(model));
  const files: ExportedFile[] = [];
  await writeFolderAtomically(path, async (folder) => {
    await mkdir(join(folder, "onnx"));
    const withDataFile: string[] = [];
    const write = async (name: string, content: Content): Promise<void> => {
      await writeFileAtomically(join(folder, name), content);
      files.push({ name, bytes: (await stat(join(folder, name))).size });
    };
    for (const dtype of new Set(dtypes)) {
      const name = `model${SUFFIXES[dtype]}.onnx`;
      const report = (progress: Omit<ExportProgress, "file">): void => {
        signal?.throwIfAborted();
        onProgress?.({ ...progress, file: `onnx/${name}` });
      };
      const graph = exportGraph(model, dtype);
      const whole = await encodeWhole(graph, VERSION);
      if (whole.byteLength <= maxWholeBytes) {
        await write(`onnx/${name}`, whole.chunks(report));
        if (dtype !== "q4") files.push(await addOldName(folder, name));
        continue;
      }
      const encoded = await encodeGraph(graph, `${name}_data`, VERSION);
      await write(`onnx/${name}`, encoded.model);
      await write(`onnx/${name}_data`, dataChunks(encoded, report));
      withDataFile.push(name);
    }
    const original = (name: string): Promise<JsonObject | undefined> => ownConfig(model, name);
    const own = await original("config.json");
    const config = exportedConfig(model.config, own && textConfig(model.path, own), { dtypes, withDataFile });
    texts.set("config.json", toJson(config));
    const generation = exportedGenerationConfig(model.config, await original("generation_config.json"));
    texts.set("generation_config.json", toJson(generation));
    for (const [name, text] of texts) await write(name, text);
  }).catch((error: unknown) => {
    signal?.throwIfAborted();
    throw error;
  });
  return files;
}

type Content = Parameters<typeof writeFileAtomically>[1];

/** Adds a graph's old name. Old versions run neither 4 bits nor graphs with a separate file of weights. */
async function addOldName(folder: string, name: string): Promise<ExportedFile> {
  const [from, to] = [
    join(folder, "onnx", name),
    join(folder, "onnx", `decoder_${name.replace("model", "model_merged")}`),
  ];
  // Some file systems have no links.
  await link(from, to).catch(() => copyFile(from, to));
  return { name: `onnx/decoder_${name.replace("model", "model_merged")}`, bytes: (await stat(to)).size };
}

/** Reads a file of the checkpoint's folder; a GGUF file has none. */
async function ownConfig(model: Model, name: string): Promise<JsonObject | undefined> {
  if (!(await stat(model.path)).isDirectory()) return undefined;
  return readJsonFile(join(model.path, name), MAX_CONFIG_BYTES);
}

/**
 * Writes a dense model as the graph that transformers.js runs, like an export from PyTorch. Our engine does not run it:
 * the past is copied at every step, and padding is computed.
 *
 * Inputs: `input_ids`, `position_ids` int64 `[batch, sequence]`, `attention_mask` int64 `[batch, past + sequence]` (0
 * for padding), `past_key_values.{layer}.key` and `.value` float32 `[batch, numKvHeads, past, headSize]`.
 *
 * Outputs: `logits` float32 `[batch, sequence, vocabSize]`, `present.{layer}.key` and `.value`, grown by `sequence`.
 */
function exportGraph({ config, weights }: Pick<Model, "config" | "weights">, dtype: ExportDtype): Graph {
  const g = new GraphBuilder("main_graph");
  const writer = new ExportWeights(g, dtype, config);
  const tokenIds = g.input("input_ids", "int64", ["batch_size", "sequence_length"]);
  const attentionMask = g.input("attention_mask", "int64", ["batch_size", "total_sequence_length"]);
  const positionIds = g.input("position_ids", "int64", ["batch_size", "sequence_length"]);
  const positions = exportPositions(g, config, { tokenIds, attentionMask, positions: positionIds });
  const embedding = writer.embedding("model.embed_tokens.weight", tokenIds, weights.embedding);
  const scaled = (x: Value, factor: number): Value => (factor === 1 ? x : Mul(g, x, g.float(factor)));
  const cacheShape = (positionsName: string): readonly (string | number)[] => [
    "batch_size",
    config.numKvHeads,
    positionsName,
    config.headSize,
  ];

  let hidden = scaled(embedding.rows, config.embeddingScale);
  const presents: ExportCache[] = [];
  weights.layers.forEach((layer, index) => {
    const name = `model.layers.${index}`;
    const past: ExportCache = {
      keys: g.input(`past_key_values.${index}.key`, "float32", cacheShape("past_sequence_length")),
      values: g.input(`past_key_values.${index}.value`, "float32", cacheShape("past_sequence_length")),
    };
    const attend = (rows: ExportRows): Value => {
      const { attended, present } = exportAttention(g, rows, { config, layer: index, positions, past });
      presents.push(present);
      return attended;
    };
    const operations = (prefix: string, half: NamedWeights): LayerOperations<Value> =>
      exportOperations(g, writer, { prefix, weights: half, config, attend });
    hidden = attentionHalf(operations(`${name}.attention`, attentionWeights(layer)), config, hidden);
    hidden = feedForwardHalf(operations(`${name}.mlp`, denseWeights(layer)), config, hidden, ["ffn"]);
  });

  const normed = writer.norm("model.norm", hidden, weights.finalNorm);
  const isTied = weights.head === weights.embedding;
  const logits =
    isTied && embedding.tiedLogits ? embedding.tiedLogits(normed) : writer.product("lm_head", normed, weights.head);
  const logitsShape = ["batch_size", "sequence_length", config.vocabSize];
  g.output("logits", scaled(logits, config.logitScale), "float32", logitsShape);
  presents.forEach(({ keys, values }, index) => {
    g.output(`present.${index}.key`, keys, "float32", cacheShape("total_sequence_length"));
    g.output(`present.${index}.value`, values, "float32", cacheShape("total_sequence_length"));
  });
  return nameOutputs(g.build());
}

function denseWeights(layer: LayerRefs): NamedWeights {
  const [ffn] = layer.experts;
  if (!ffn) throw new TypeError("Expected a dense layer");
  return new Map([...feedForwardNorms(layer), ...feedForwardWeights("ffn", ffn)]);
}

interface ExportHalf {
  /** Prefix of the names of constants. */
  readonly prefix: string;
  readonly weights: NamedWeights;
  readonly config: ModelConfig;
  readonly attend: (rows: ExportRows) => Value;
}

/** `activation(gate) · up` by activation. */
const GATES: Readonly<Record<"silu" | "gelu-tanh", (g: GraphBuilder, gate: Value, up: Value) => Value>> = {
  silu: (g, gate, up) => Mul(g, Mul(g, gate, Sigmoid(g, gate)), up),
  "gelu-tanh": (g, gate, up) => Mul(g, geluTanh(g, gate), up),
};

/** GELU's approximation by tanh; the operator `Gelu` is newer than the exported operator set. */
function geluTanh(g: GraphBuilder, x: Value): Value {
  const cubic = Mul(g, Pow(g, x, g.float(3)), g.float(0.044715));
  const turned = Tanh(g, Mul(g, Add(g, x, cubic), g.float(Math.sqrt(2 / Math.PI))));
  return Mul(g, Mul(g, x, g.float(0.5)), Add(g, turned, g.float(1)));
}

/** Makes the operations of one half of a layer, in operators of the specification. */
function exportOperations(
  g: GraphBuilder,
  writer: ExportWeights,
  { prefix, weights, config, attend }: ExportHalf,
): LayerOperations<Value> {
  const find = (name: string) => {
    const ref = weights.get(name);
    if (!ref) throw new TypeError(`Expected a weight \`${name}\` in ${prefix}`);
    return ref;
  };
  return {
    has: (name) => weights.has(name),
    linear: (name, x) => {
      const refs = { weight: find(`${name}.weight`), bias: weights.get(`${name}.bias`) };
      return writer.linear(`${prefix}.${name}`, x, refs);
    },
    norm: (name, x, over) => {
      const scale = find(name);
      if (over === "row") return writer.norm(`${prefix}.${name}`, x, scale);
      const normed = writer.norm(`${prefix}.${name}`, Reshape(g, x, [0, 0, -1, config.headSize]), scale);
      return Reshape(g, normed, [0, 0, -1]);
    },
    attend: (queries, keys, values) => attend({ queries, keys, values }),
    gate: (gate, up) => GATES[decoderActivation(config)](g, gate, up),
    add: (a, b) => Add(g, a, b),
    scale: (x, factor) => Mul(g, x, g.float(factor)),
  };
}

/** Cosines and sines of one set of angles, `[batch, 1, sequence, rotatedSize]`. */
interface ExportAngles {
  readonly cos: Value;
  readonly sin: Value;
}

/** Values that all layers share. */
interface ExportPositions {
  readonly angles: readonly ExportAngles[];
  /** Makes the summand of scores, `[batch, 1, sequence, total]`, once per window. */
  readonly mask: (window: number | undefined) => Value;
}

/** Keys and values of a layer, `[batch, numKvHeads, positions, headSize]`. */
interface ExportCache {
  readonly keys: Value;
  readonly values: Value;
}

// The least float32: with infinity, rows of padding, which see nothing, would become NaN.
const MASKED = -3.4028234663852886e38;

/**
 * Computes rotary angles and masks.
 *
 * @param tokenIds - int64 `[batch, sequence]`
 * @param attentionMask - int64 `[batch, total]`, past included, 0 for padding
 * @param positions - int64 `[batch, sequence]`
 */
function exportPositions(
  g: GraphBuilder,
  config: ModelConfig,
  { tokenIds, attentionMask, positions }: Readonly<Record<"tokenIds" | "attentionMask" | "positions", Value>>,
): ExportPositions {
  const places = Unsqueeze(g, CastTo(g, positions, "float32"), [1, 3]);
  const angles = config.ropes.map((rope, set): ExportAngles => {
    const name = set === 0 ? "rope.frequencies" : `rope.frequencies.${set}`;
    const frequencies = g.weight(name, "float32", [config.rotatedSize / 2], () => {
      return new Uint8Array(ropeFrequencies(rope, config.rotatedSize).buffer);
    });
    const half = Mul(g, places, frequencies);
    const both = Concat(g, [half, half], -1);
    const scale = ropeScale(rope);
    const scaled = (x: Value): Value => (scale === 1 ? x : Mul(g, x, g.float(scale)));
    return { cos: scaled(Cos(g, both)), sin: scaled(Sin(g, both)) };
  });

  const numQueries = Squeeze(g, Shape(g, tokenIds, 1, 2), [0]);
  const numKeys = Squeeze(g, Shape(g, attentionMask, 1, 2), [0]);
  const keys = Range(g, numKeys); // [total]
  const queries = Unsqueeze(g, Add(g, Range(g, numQueries), Sub(g, numKeys, numQueries)), [1]); // [sequence, 1]
  const isToken = CastTo(g, Unsqueeze(g, attentionMask, [1, 2]), "bool"); // [batch, 1, 1, total]
  const isVisible = And(g, isToken, LessOrEqual(g, keys, queries));
  const masks = new Map<number | undefined, Value>();
  const mask = (window: number | undefined): Value => {
    const known = masks.get(window);
    if (known) return known;
    const inWindow =
      window === undefined
        ? isVisible
        : And(g, isVisible, LessOrEqual(g, Sub(g, queries, keys), g.integer(window - 1)));
    const made = Where(g, inWindow, g.float(0), g.float(MASKED));
    masks.set(window, made);
    return made;
  };
  return { angles, mask };
}

/** Rows of one run, `[batch, sequence, heads · headSize]`. */
interface ExportRows {
  readonly queries: Value;
  readonly keys: Value;
  readonly values: Value;
}

interface ExportAttention {
  readonly config: ModelConfig;
  readonly layer: number;
  readonly positions: ExportPositions;
  readonly past: ExportCache;
}

/** Computes each head's weighted sums of values, `[batch, sequence, numHeads · headSize]`, and the grown cache. */
function exportAttention(
  g: GraphBuilder,
  rows: ExportRows,
  { config, layer, positions, past }: ExportAttention,
): { readonly attended: Value; readonly present: ExportCache } {
  const { numHeads, numKvHeads, headSize, rotatedSize } = config;
  const byHead = (x: Value, count: number): Value => Transpose(g, Reshape(g, x, [0, 0, count, headSize]), [0, 2, 1, 3]);
  const { slidingWindow, angleSet } = layerConfig(config, layer);
  const angles = angleSet === undefined ? undefined : positions.angles[angleSet];
  const rotated = (x: Value): Value => (angles ? rotate(g, x, angles, { headSize, rotatedSize }) : x);
  const present = {
    keys: Concat(g, [past.keys, rotated(byHead(rows.keys, numKvHeads))], 2),
    values: Concat(g, [past.values, byHead(rows.values, numKvHeads)], 2),
  };
  // Query heads with the same keys are rows of one product; masks are per query and are added head by head.
  const asRows = (x: Value): Value => Reshape(g, x, [0, numKvHeads, -1, 0]);
  const asHeads = (x: Value): Value => Reshape(g, x, [0, numHeads, -1, 0]);
  // PyTorch's exporter splits the scale between the two factors, too.
  const scale = g.float(Math.sqrt(config.attentionScale));
  const queries = asRows(Mul(g, rotated(byHead(rows.queries, numHeads)), scale));
  const keys = Mul(g, Transpose(g, present.keys, [0, 1, 3, 2]), scale);
  const scores = asHeads(MatMul(g, queries, keys));
  const weights = asRows(Softmax(g, Add(g, scores, positions.mask(slidingWindow)), -1));
  const attended = Transpose(g, asHeads(MatMul(g, weights, present.values)), [0, 2, 1, 3]);
  return { attended: Reshape(g, attended, [0, 0, numHeads * headSize]), present };
}

/** Rotates heads `[batch, heads, sequence, headSize]`; dimensions behind the rotated ones stay. */
function rotate(
  g: GraphBuilder,
  x: Value,
  { cos, sin }: ExportAngles,
  { headSize, rotatedSize }: Pick<ModelConfig, "headSize" | "rotatedSize">,
): Value {
  const half = rotatedSize / 2;
  const part = (start: number, end: number): Value => Slice(g, x, { start, end, axis: 3 });
  const turned = Concat(g, [Neg(g, part(half, rotatedSize)), part(0, half)], -1);
  const isWhole = rotatedSize === headSize;
  const rotated = Add(g, Mul(g, isWhole ? x : part(0, rotatedSize), cos), Mul(g, turned, sin));
  return isWhole ? rotated : Concat(g, [rotated, part(rotatedSize, headSize)], -1);
}
