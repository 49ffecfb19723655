// Tensors that hold the rows of several products, or the matrices of several experts, as tensors of their own.

import { familyOf } from "../config/families.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { allocateFor, corrupt, quoted, unsupported } from "../files/errors.ts";
import { BLOCK_VALUES, dequantizeMXFP4, MXFP4_BLOCK_BYTES } from "../gguf/ggml-types.ts";
import {
  checkRows,
  type FilePlace,
  rowBytes,
  type RowRange,
  type TensorInfo,
  type TensorStore,
} from "../tensor-store.ts";
import { tensorRef, type TensorRef } from "./model-weights.ts";

/** A tensor that is some rows of a stored one. */
export interface TensorPart {
  /** Name in the store. */
  readonly of: string;
  /** Rows, through the first two dimensions for a matrix of a stack. @default all rows */
  readonly rows?: RowRange | undefined;
}

/** A store in which parts of tensors replace the tensors that they are of. All others keep their names. */
export class TensorParts implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly #store: TensorStore;
  readonly #parts: ReadonlyMap<string, TensorPart>;
  readonly #replaced: ReadonlySet<string>;

  /** @param parts - by the name that a part gets; their rows are within the tensor */
  constructor(store: TensorStore, parts: ReadonlyMap<string, TensorPart>) {
    this.#replaced = new Set(Array.from(parts.values(), ({ of }) => of));
    this.path = store.path;
    this.names = [...store.names.filter((name) => !this.#replaced.has(name)), ...parts.keys()];
    this.#store = store;
    this.#parts = parts;
  }

  has(name: string): boolean {
    return this.#parts.has(name) || (this.#store.has(name) && !this.#replaced.has(name));
  }

  info(name: string): TensorInfo {
    const part = this.#parts.get(name);
    if (part === undefined) return this.#store.info(name);
    const whole = this.#store.info(part.of);
    const { rows } = part;
    if (rows === undefined) return { ...whole, name };
    const shape = [rows.to - rows.from, ...whole.shape.slice(rows.axes ?? 1)];
    return { name, type: whole.type, shape, byteLength: rowBytes(whole, rows).byteLength };
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const stored = this.#stored(name, rows);
    return this.#store.readBytes(stored.name, stored.rows);
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const stored = this.#stored(name, rows);
    return this.#store.readFloats(stored.name, stored.rows);
  }

  placeOf(name: string): FilePlace | undefined {
    const stored = this.#stored(name, undefined);
    const whole = this.#store.placeOf?.(stored.name);
    if (whole === undefined) return undefined;
    const { offset, byteLength } = rowBytes(this.#store.info(stored.name), stored.rows);
    return { ...whole, offset: whole.offset + offset, byteLength };
  }

  async close(): Promise<void> {
    await this.#store.close();
  }

  #stored(name: string, rows: RowRange | undefined): { readonly name: string; readonly rows: RowRange | undefined } {
    const part = this.#parts.get(name);
    if (part === undefined) return { name, rows };
    if (part.rows === undefined || rows === undefined) return { name: part.of, rows: rows ?? part.rows };
    const { from, to, axes } = part.rows;
    checkRows([to - from], rows);
    return { name: part.of, rows: { from: from + rows.from, to: from + rows.to, axes } };
  }
}

/** Refers to the matrices of a stack `[matrices, rows, columns]`. */
export function matricesOf({ store, name, shape }: TensorRef): readonly TensorRef[] {
  const [count = 0, rows = 0, columns = 0] = shape;
  const parts = Array.from({ length: count }, (_, index): [string, TensorPart] => [
    `${name}.${index}`,
    { of: name, rows: { from: index * rows, to: (index + 1) * rows, axes: 2 } },
  ]);
  const divided = new TensorParts(store, new Map(parts));
  return parts.map(([part]) => tensorRef(divided, part, [rows, columns]));
}

/** A product whose rows are in a fused tensor. */
interface FusedRows {
  /** Name of the product's own tensors in other families, behind `model.layers.N.`. */
  readonly module: string;
  readonly rows: RowRange;
}

/** Lists the products in each fused tensor of a family, by the tensor's name behind `model.layers.N.`. */
export function fusedModules(config: ModelConfig): ReadonlyMap<string, readonly FusedRows[]> {
  const { fused } = familyOf(config.modelType);
  const mixed = mixedModules(config);
  if (fused === undefined) return mixed;
  const { numHeads, numKvHeads, headSize, hiddenSize, intermediateSize, mixture } = config;
  const keySize = numKvHeads * headSize;
  const ffn = mixture ? SHARED_MODULE : "mlp";
  const ffnSize = mixture?.sharedSize ?? intermediateSize;
  const attention = successive([
    ["self_attn.q_proj", numHeads * headSize],
    ["self_attn.k_proj", keySize],
    ["self_attn.v_proj", keySize],
  ]);
  const gateUp = successive([
    [`${ffn}.gate_proj`, ffnSize],
    [`${ffn}.up_proj`, ffnSize],
  ]);
  return new Map([
    ...mixed,
    ...(fused.qkv === undefined ? [] : [[fused.qkv, attention] as const]),
    [fused.gateUp, gateUp],
    ...(fused.down === undefined ? [] : [[fused.down, successive([[`${ffn}.down_proj`, hiddenSize]])] as const]),
  ]);
}

/** Lists the products in the tensors of recurrences, whose modules have one name for queries, keys and values each. */
function mixedModules({ recurrence, hiddenSize }: ModelConfig): ReadonlyMap<string, readonly FusedRows[]> {
  if (!recurrence) return new Map();
  const { numKeyHeads, keySize, numValueHeads, valueSize } = recurrence;
  const [keys, values] = [numKeyHeads * keySize, numValueHeads * valueSize];
  return new Map([
    [
      "conv.in_proj",
      successive([
        ["conv.key", hiddenSize],
        ["conv.query", hiddenSize],
        ["conv.value", hiddenSize],
      ]),
    ],
    [
      "linear_attn.in_proj_qkv",
      successive([
        ["linear_attn.query", keys],
        ["linear_attn.key", keys],
        ["linear_attn.value", values],
      ]),
    ],
    [
      "mamba.in_proj",
      successive([
        ["mamba.gate", values],
        ["mamba.value", values],
        ["mamba.key", keys],
        ["mamba.query", keys],
        ["mamba.decay", numValueHeads],
      ]),
    ],
  ]);
}

/** Module of the part of a mixture's layers that all tokens use, behind `model.layers.N.`. */
export const SHARED_MODULE = "mlp.shared_expert";

function successive(sizes: readonly (readonly [module: string, numRows: number])[]): readonly FusedRows[] {
  let from = 0;
  return sizes.map(([module, numRows]) => {
    const rows = { from, to: from + numRows };
    from = rows.to;
    return { module, rows };
  });
}

/**
 * Splits the fused tensors of a dense checkpoint. A tensor that is not there is not split, so that a checkpoint may
 * also have its parts.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming a fused tensor of another shape
 */
export function splitFused(checkpoint: TensorStore, config: ModelConfig): TensorStore {
  const store = withFamilyNames(checkpoint, config);
  const parts = new Map<string, TensorPart>();
  for (const [fused, modules] of fusedModules(config)) {
    const numRows = modules.at(-1)?.rows.to ?? 0;
    for (let layer = 0; layer < config.numLayers; layer++) {
      const name = `model.layers.${layer}.${fused}.weight`;
      if (!store.has(name)) continue;
      const { shape } = store.info(name);
      tensorRef(store, name, [numRows, ...shape.slice(1)]);
      for (const { module, rows } of modules) parts.set(`model.layers.${layer}.${module}.weight`, { of: name, rows });
    }
  }
  return parts.size === 0 ? store : new TensorParts(store, parts);
}

/** Translates a family's own name behind `model.layers.N.` to Llama's; other names stay as they are. */
export function llamaName({ modelType }: Pick<ModelConfig, "modelType">, name: string): string {
  const [from, to] = Object.entries(familyOf(modelType).renamed ?? {}).find(([own]) => name.startsWith(own)) ?? [];
  return from === undefined ? name : to + name.slice(from.length);
}

/** Gives the tensors of layers that a family calls otherwise the names of Llama's. */
function withFamilyNames(store: TensorStore, config: ModelConfig): TensorStore {
  const parts = store.names.flatMap((of): (readonly [string, TensorPart])[] => {
    const layer = /^model\.layers\.\d+\./.exec(of)?.[0];
    const name = layer === undefined ? of : layer + llamaName(config, of.slice(layer.length));
    return name === of ? [] : [[name, { of }]];
  });
  return parts.length === 0 ? store : new TensorParts(store, new Map(parts));
}

// The tensors of the model of text in a checkpoint of more, or without a head, under a language model's names.

/** Beginnings of names and what they are in a checkpoint of text: of transformers from 4.52 on, and before. */
const PREFIXES: readonly (readonly [string, string])[] = [
  ["model.language_model.", "model."],
  ["language_model.model.", "model."],
  ["language_model.lm_head.", "lm_head."],
  // Checkpoints of the model without its head.
  ["embed_tokens.", "model.embed_tokens."],
  ["layers.", "model.layers."],
  ["norm.", "model.norm."],
  // LFM 2.
  ["model.embedding_norm.", "model.norm."],
];

/** Finds the tensors of the model of text; a store without others is returned as it is. */
export function textTensors(store: TensorStore): TensorStore {
  const parts = store.names.flatMap((of) => (renamed(of) === of ? [] : [[renamed(of), { of }] as const]));
  return parts.length > 0 ? new TensorParts(store, new Map(parts)) : store;
}

function renamed(name: string): string {
  const [from, to] = PREFIXES.find(([prefix]) => name.startsWith(prefix)) ?? ["", ""];
  return to + name.slice(from.length);
}

// MXFP4 in two tensors of bytes. Sources: compressors/mxfp4/base.py, mx_utils.py and nvfp4/helpers.py of
// compressed-tensors (`mxfp4-pack-quantized`); integrations/mxfp4.py of transformers (gpt-oss).

/** Endings of the names of both tensors, and of the weight in their place. */
interface Mxfp4Names {
  readonly codes: string;
  readonly scales: string;
  readonly weight: string;
}

/** compressed-tensors has `[rows, columns / 2]`, gpt-oss `[…, rows, columns / 32, 16]`. */
const MXFP4_NAMES: readonly Mxfp4Names[] = [
  { codes: ".weight_packed", scales: ".weight_scale", weight: ".weight" },
  { codes: "_blocks", scales: "_scales", weight: "" },
];
/** Tensors that other formats have besides, which change the numbers. */
const FURTHER = ["_zero_point", "_global_scale", "_g_idx"] as const;

const CODE_BYTES = BLOCK_VALUES / 2;

/** Finds the weights in MXFP4; a store without any is returned as it is. @throws {ReadMeError} as the constructor */
export function mxfp4Tensors(store: TensorStore): TensorStore {
  const weights = MXFP4_NAMES.flatMap((names) =>
    store.names
      .filter((name) => name.endsWith(names.codes))
      .map((name) => weightOf(store, name.slice(0, -names.codes.length), names)),
  );
  return weights.length > 0 ? new Mxfp4Tensors(store, weights) : store;
}

interface Mxfp4Weight {
  readonly info: TensorInfo;
  readonly codes: string;
  readonly scales: string;
}

/**
 * Store in which a weight in GGUF's blocks of MXFP4 replaces two tensors of bytes: codes, whose low halves are even
 * columns, and the exponents of 32 columns each. All others keep their names.
 */
class Mxfp4Tensors implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly #store: TensorStore;
  readonly #weights: ReadonlyMap<string, Mxfp4Weight>;

  constructor(store: TensorStore, weights: readonly Mxfp4Weight[]) {
    const replaced = new Set(weights.flatMap(({ codes, scales }) => [codes, scales]));
    this.path = store.path;
    this.names = [...store.names.filter((name) => !replaced.has(name)), ...weights.map(({ info }) => info.name)];
    this.#store = store;
    this.#weights = new Map(weights.map((weight) => [weight.info.name, weight]));
  }

  has(name: string): boolean {
    return this.#weights.has(name) || this.#store.has(name);
  }

  info(name: string): TensorInfo {
    return this.#weights.get(name)?.info ?? this.#store.info(name);
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const weight = this.#weights.get(name);
    if (!weight) return this.#store.readBytes(name, rows);
    const [codes, scales] = await Promise.all([
      this.#store.readBytes(weight.codes, rows),
      this.#store.readBytes(weight.scales, rows),
    ]);
    return allocateFor(`${this.path}: tensor ${quoted(name)}`, () => blocksOf(codes, scales));
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    if (!this.#weights.has(name)) return this.#store.readFloats(name, rows);
    const blocks = await this.readBytes(name, rows);
    return allocateFor(`${this.path}: tensor ${quoted(name)}`, () => dequantizeMXFP4(blocks));
  }

  async close(): Promise<void> {
    await this.#store.close();
  }
}

/**
 * Describes a weight.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming a tensor of another type or shape, or without scales;
 *   `ERR_MODEL_UNSUPPORTED` naming a tensor that MXFP4 does not have
 */
function weightOf(store: TensorStore, stem: string, names: Mxfp4Names): Mxfp4Weight {
  const { path } = store;
  const [name, codesName, scalesName] = [names.weight, names.codes, names.scales].map((ending) => stem + ending) as [
    string,
    string,
    string,
  ];
  const further = FURTHER.map((ending) => name + ending).find((other) => store.has(other));
  if (further !== undefined) {
    throw unsupported(path, `tensor ${quoted(further)} is none of MXFP4, the only packed format that is read`);
  }
  if (store.has(name)) throw corrupt(path, `holds both ${quoted(name)} and ${quoted(codesName)}`);
  if (!store.has(scalesName)) throw corrupt(path, `tensor ${quoted(codesName)} has no ${quoted(scalesName)}`);
  const [codes, scales] = [store.info(codesName), store.info(scalesName)];
  for (const { name: part, type } of [codes, scales]) {
    if (type !== "U8") throw corrupt(path, `tensor ${quoted(part)} holds ${type}, but MXFP4 has bytes`);
  }
  const rows = scales.shape.slice(0, -1);
  const groups = scales.shape.at(-1) ?? 0;
  const expected = names.weight === "" ? [...scales.shape, CODE_BYTES] : [...rows, CODE_BYTES * groups];
  const isMatrix = names.weight === "" ? rows.length > 0 : rows.length === 1;
  if (!isMatrix || codes.shape.join() !== expected.join()) {
    const shapes = `[${codes.shape.join(", ")}] and its scales [${scales.shape.join(", ")}]`;
    throw corrupt(path, `tensor ${quoted(codesName)} has the shape ${shapes}, which are no blocks of MXFP4`);
  }
  const shape = [...rows, BLOCK_VALUES * groups];
  const info = { name, type: "MXFP4", shape, byteLength: MXFP4_BLOCK_BYTES * scales.byteLength } as const;
  return { info, codes: codesName, scales: scalesName };
}

/**
 * Puts each scale before its codes. A byte of a block has values i and i + 16, where one of the file has 2i and 2i + 1.
 *
 * @param scales - one for each 16 bytes of `codes`
 */
function blocksOf(codes: Uint8Array, scales: Uint8Array): Uint8Array {
  const blocks = new Uint8Array(MXFP4_BLOCK_BYTES * scales.length);
  const from = new DataView(codes.buffer, codes.byteOffset, codes.byteLength);
  const to = new DataView(blocks.buffer);
  for (let block = 0; block < scales.length; block++) {
    const at = MXFP4_BLOCK_BYTES * block;
    blocks[at] = scales[block]!;
    // Two bytes at once are twice as fast as one.
    for (let i = 0; i < CODE_BYTES / 2; i += 2) {
      const low = from.getUint16(CODE_BYTES * block + i, true);
      const high = from.getUint16(CODE_BYTES * block + CODE_BYTES / 2 + i, true);
      const even = (low & 0x0f0f) | ((high & 0x0f0f) << 4);
      const odd = ((low >>> 4) & 0x0f0f) | (high & 0xf0f0);
      to.setUint16(at + 1 + 2 * i, (even & 0xff) | ((odd & 0xff) << 8), true);
      to.setUint16(at + 3 + 2 * i, (even >>> 8) | (odd & 0xff00), true);
    }
  }
  return blocks;
}
