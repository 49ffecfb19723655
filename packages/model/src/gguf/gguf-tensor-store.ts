import { ReadMeError } from "@readme-moe/core";
import { encoderFamily, encoderNameOf, encoderTypeOf, GGML_NAME } from "../config/encoder-config.ts";
import { familyOf, modelTypeOf } from "../config/families.ts";
import { type Family, type NormNames, NORMS_BEFORE } from "../config/family.ts";
import type { RecurrenceConfig } from "../config/recurrence.ts";
import { SHARED_MODULE } from "../weights/tensor-parts.ts";
import { allocateFor, corrupt, invalid, quoted } from "../files/errors.ts";
import { encodeFloats } from "../files/floats.ts";
import { ByteSource, orClose } from "../files/read-file.ts";
import {
  checkRows,
  countValues,
  type FilePlace,
  rowBytes,
  type RowRange,
  type StoredType,
  type TensorInfo,
  type TensorStore,
} from "../tensor-store.ts";
import { type GgufHeader, type GgufMetadata, type GgufTensorInfo, readGgufHeader } from "./header.ts";

/**
 * GGUF file as a Hugging Face checkpoint, with that format's names and row order. Tensors without a name there, such as
 * `rope_freqs.weight`, keep their own.
 *
 * Some architectures, such as `llama` (also of Mistral's files), order the rows of q_proj and k_proj by rotary pairs.
 * The store restores the order by the head counts of the metadata.
 *
 * Files of families with an offset of norms hold scales with the offset added. The store subtracts it, in float32.
 */
export class GgufTensorStore implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  /** The file underneath, for its metadata. */
  readonly file: GgufFile;
  readonly #architecture: string;
  readonly #hasPairedRows: boolean;
  readonly #normOffset: number;
  /** The file's names by Hugging Face's. */
  readonly #ggmlNames: ReadonlyMap<string, string>;

  /**
   * @throws {ReadMeError} `ERR_MODEL_INVALID` without `general.architecture`; `ERR_FILE_CORRUPT` when two tensors have
   *   one name
   */
  constructor(file: GgufFile) {
    const architecture = file.metadata.get("general.architecture");
    if (typeof architecture !== "string") {
      throw invalid(file.path, `has no metadata "general.architecture"`);
    }
    const encoderType = encoderTypeOf(architecture);
    const encoder = encoderType === undefined ? undefined : encoderFamily(encoderType);
    const modelType = modelTypeOf(architecture);
    const family = modelType === undefined ? undefined : familyOf(modelType);
    const ggmlNames = new Map<string, string>();
    for (const ggmlName of file.tensors.keys()) {
      const name = encoder ? encoderNameOf(ggmlName, encoder) : hfNameOf(ggmlName, family);
      const other = ggmlNames.get(name);
      if (other !== undefined) {
        throw corrupt(file.path, `tensors ${quoted(other)} and ${quoted(ggmlName)} are both ${quoted(name)}`);
      }
      ggmlNames.set(name, ggmlName);
    }
    this.path = file.path;
    this.names = [...ggmlNames.keys()];
    this.file = file;
    this.#architecture = architecture;
    this.#hasPairedRows = family?.hasPairedRows ?? false;
    this.#normOffset = family?.normOffset ?? 0;
    this.#ggmlNames = ggmlNames;
  }

  /** Opens a file. @throws {ReadMeError} as `GgufFile.open` and the constructor */
  static async open(path: string): Promise<GgufTensorStore> {
    const file = await GgufFile.open(path);
    return orClose(file, () => new GgufTensorStore(file));
  }

  has(name: string): boolean {
    return this.#ggmlNames.has(name);
  }

  info(name: string): TensorInfo {
    const ggmlName = this.#ggmlName(name);
    const info = { ...this.file.info(ggmlName), name };
    const numValues = countValues(info.shape);
    if (!this.#isShifted(ggmlName) || numValues === undefined) return info;
    return { ...info, type: "F32", byteLength: 4 * numValues };
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const ggmlName = this.#ggmlName(name);
    if (this.#isShifted(ggmlName)) return encodeFloats(await this.readFloats(name, rows), "F32");
    const headSize = this.#pairedHeadSize(ggmlName);
    if (headSize === undefined) return this.file.readBytes(ggmlName, rows);
    const { shape } = this.file.info(ggmlName);
    const wanted = rows ?? { from: 0, to: shape[0] ?? 1 };
    checkRows(shape, wanted);
    // Rows only move within their head, so the heads that `wanted` touches hold all of it.
    const from = wanted.from - (wanted.from % headSize);
    const to = Math.ceil(wanted.to / headSize) * headSize;
    const fileRows = await this.file.readBytes(ggmlName, { from, to });
    // A tensor without bytes may claim more rows than can be counted through.
    if (fileRows.byteLength === 0) return fileRows;
    const subject = `${this.path}: tensor ${quoted(ggmlName)}`;
    return allocateFor(subject, () =>
      pickHfRows(fileRows, { from, to }, { headSize, rotatedSize: this.#rotatedSize(headSize) }, wanted),
    );
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const ggmlName = this.#ggmlName(name);
    if (this.#isShifted(ggmlName)) {
      const offset = this.#normOffset;
      return (await this.file.readFloats(ggmlName, rows)).map((value) => value - offset);
    }
    if (this.#pairedHeadSize(ggmlName) === undefined) return this.file.readFloats(ggmlName, rows);
    return this.file.decode(ggmlName, await this.readBytes(name, rows));
  }

  placeOf(name: string): FilePlace | undefined {
    const ggmlName = this.#ggmlName(name);
    const isChanged = this.#isShifted(ggmlName) || this.#pairedHeadSize(ggmlName) !== undefined;
    return isChanged ? undefined : this.file.placeOf(ggmlName);
  }

  async close(): Promise<void> {
    await this.file.close();
  }

  #ggmlName(name: string): string {
    const ggmlName = this.#ggmlNames.get(name);
    if (ggmlName === undefined) throw invalid(this.path, `has no tensor ${quoted(name)}`);
    return ggmlName;
  }

  /** Checks that a tensor holds scales of a norm with an offset. */
  #isShifted(ggmlName: string): boolean {
    // The norm of a recurrence's outputs has none.
    return this.#normOffset !== 0 && ggmlName.endsWith("norm.weight") && !ggmlName.endsWith(".ssm_norm.weight");
  }

  /** @returns rows per head, or `undefined` for a tensor whose rows are in Hugging Face order already */
  #pairedHeadSize(ggmlName: string): number | undefined {
    const rotary = this.#hasPairedRows ? rotaryPartOf(ggmlName) : undefined;
    if (rotary === undefined) return undefined;
    const numHeads = this.#numHeads(ggmlName, rotary.layer, rotary.part);
    const numRows = this.file.info(ggmlName).shape[0] ?? 1;
    const headSize = numRows / numHeads;
    if (headSize >= 2 && headSize % 2 === 0) return headSize;
    // Without rows there is nothing to reorder.
    if (numRows === 0) return undefined;
    const message = `tensor ${quoted(ggmlName)} has ${numRows} rows, which are no ${numHeads} heads of even size`;
    throw invalid(this.path, message);
  }

  /** Rows of a head that are in pairs: those that RoPE rotates. */
  #rotatedSize(headSize: number): number {
    const key = `${this.#architecture}.rope.dimension_count`;
    const size = this.file.metadata.get(key) ?? headSize;
    if (typeof size === "number" && Number.isInteger(size / 2) && size > 0 && size <= headSize) return size;
    throw invalid(this.path, `metadata ${quoted(key)} is no even number up to the head size ${headSize}`);
  }

  #numHeads(ggmlName: string, layer: number, part: "attn_q" | "attn_k"): number {
    const { metadata } = this.file;
    const queryKey = `${this.#architecture}.attention.head_count`;
    const keyKey = `${queryKey}_kv`;
    // Files with as many key heads as query heads may omit the count of the former.
    const key = part === "attn_k" && metadata.has(keyKey) ? keyKey : queryKey;
    const value = metadata.get(key);
    // Models with different layers list one count per layer.
    const count = ArrayBuffer.isView(value) ? value[layer] : value;
    if (typeof count === "number" && Number.isInteger(count) && count > 0) return count;
    const message = `tensor ${quoted(ggmlName)} needs a positive head count, which metadata ${quoted(key)} lacks`;
    throw invalid(this.path, message);
  }
}

/** Numbers of rows of a head; both are even. */
export interface HeadRows {
  readonly headSize: number;
  /** Rows that RoPE rotates, from the head's first one. */
  readonly rotatedSize: number;
}

/**
 * Finds the row of a file with rows by rotary pairs that is row `hfRow` of the Hugging Face tensor: in each head,
 * Hugging Face lists the first halves of all pairs, then the second ones; llama.cpp lists pair by pair. Rows behind the
 * rotated ones are in the same place in both.
 */
export function pairedRowOf(hfRow: number, { headSize, rotatedSize }: HeadRows): number {
  const inHead = hfRow % headSize;
  if (inHead >= rotatedSize) return hfRow;
  const half = rotatedSize / 2;
  return hfRow - inHead + (inHead < half ? 2 * inHead : 2 * (inHead - half) + 1);
}

/**
 * Copies rows in Hugging Face order out of rows by rotary pairs.
 *
 * @param fileRows - the bytes of the file's rows `held`, which are the whole heads that `wanted` touches
 * @returns the bytes of rows `wanted` of the Hugging Face tensor
 */
function pickHfRows(fileRows: Uint8Array, held: RowRange, head: HeadRows, wanted: RowRange): Uint8Array {
  const bytesPerRow = fileRows.byteLength / (held.to - held.from);
  const picked = new Uint8Array((wanted.to - wanted.from) * bytesPerRow);
  for (let row = wanted.from; row < wanted.to; row++) {
    const at = (pairedRowOf(row, head) - held.from) * bytesPerRow;
    picked.set(fileRows.subarray(at, at + bytesPerRow), (row - wanted.from) * bytesPerRow);
  }
  return picked;
}

/** GGUF file under its own tensor names and in its own order of rows. `GgufTensorStore` has those of Hugging Face. */
export class GgufFile {
  readonly path: string;
  readonly version: number;
  readonly metadata: GgufMetadata;
  /** Tensors by name, in the file's order, including those of a type that cannot be read. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  readonly #source: ByteSource;
  readonly #entries: GgufHeader["entries"];

  private constructor(source: ByteSource, { version, metadata, entries, tensors }: GgufHeader) {
    this.path = source.path;
    this.version = version;
    this.metadata = metadata;
    this.tensors = tensors;
    this.#source = source;
    this.#entries = entries;
  }

  /**
   * Opens a file.
   *
   * @throws {ReadMeError} when the file cannot be read or is damaged, big-endian, or not of version 2 or 3
   */
  static async open(path: string): Promise<GgufFile> {
    const source = await ByteSource.open(path);
    return orClose(source, async () => new GgufFile(source, await readGgufHeader(source)));
  }

  /** Reads a metadata entry as the file has it, with its key. */
  async readEntry(key: string): Promise<Uint8Array> {
    const place = this.#entries.get(key);
    if (place === undefined) throw invalid(this.path, `has no metadata ${quoted(key)}`);
    return this.#source.read(place.offset, place.byteLength, `metadata ${quoted(key)}`);
  }

  /**
   * Describes a tensor.
   *
   * @throws {ReadMeError} `ERR_MODEL_INVALID` when there is no such tensor; `ERR_MODEL_UNSUPPORTED` when
   *   its type cannot be read
   */
  info(name: string): TensorInfo {
    const { tensor, stored, byteLength } = this.#readable(name);
    return { name, type: stored, shape: tensor.shape, byteLength };
  }

  /**
   * Reads a tensor's blocks, or those of some rows.
   *
   * @throws {ReadMeError} as `info`; also for `rows` of a quantised vector, which are no whole blocks
   */
  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const { tensor, byteLength } = this.#readable(name);
    if (rows !== undefined && this.#hasSplitRows(tensor))
      throw this.#unsupported(name, "is a quantised vector, whose rows share blocks");
    const range = rowBytes({ shape: tensor.shape, byteLength }, rows);
    return this.#source.read(tensor.offset + range.offset, range.byteLength, `tensor ${quoted(name)}`);
  }

  /** Finds where a tensor's blocks lie. @throws {ReadMeError} as `info` */
  placeOf(name: string): FilePlace {
    const { tensor, byteLength } = this.#readable(name);
    return { file: this.#source, offset: tensor.offset, byteLength };
  }

  /**
   * Reads a tensor as float32, row-major, or some of its rows.
   * @throws {ReadMeError} as `info`; `ERR_MODEL_INVALID` when it holds integers
   */
  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const { tensor } = this.#readable(name);
    if (rows !== undefined && this.#hasSplitRows(tensor)) {
      checkRows(tensor.shape, rows);
      return (await this.readFloats(name)).slice(rows.from, rows.to);
    }
    return this.decode(name, await this.readBytes(name, rows));
  }

  /** Converts blocks of the tensor `name` to float32, perhaps in the same memory. */
  decode(name: string, bytes: Uint8Array): Float32Array {
    const { tensor, stored } = this.#readable(name);
    const dequantize = tensor.type?.dequantize;
    const subject = this.#subject(name);
    if (dequantize === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${subject} holds ${stored}, not floats`);
    return allocateFor(subject, () => dequantize(bytes));
  }

  async close(): Promise<void> {
    await this.#source.close();
  }

  #readable(name: string): {
    readonly tensor: GgufTensorInfo;
    readonly stored: StoredType;
    readonly byteLength: number;
  } {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) throw invalid(this.path, `has no tensor ${quoted(name)}`);
    const stored = tensor.type?.stored;
    if (stored !== undefined && tensor.byteLength !== undefined)
      return { tensor, stored, byteLength: tensor.byteLength };
    const { name: type = tensor.ggmlType, instead = "Q4_K or Q8_0" } = tensor.type ?? {};
    throw this.#unsupported(
      name,
      `has the ggml type ${type}, which is not supported; take a file with ${instead} instead`,
    );
  }

  #hasSplitRows(tensor: GgufTensorInfo): boolean {
    return tensor.shape.length < 2 && tensor.type?.blockValues !== 1;
  }

  #unsupported(name: string, problem: string): ReadMeError {
    return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${this.#subject(name)} ${problem}`);
  }

  #subject(name: string): string {
    return `${this.path}: tensor ${quoted(name)}`;
  }
}

/** Reads a file's metadata alone. @throws {ReadMeError} as `GgufFile.open` */
export async function ggufMetadata(path: string): Promise<GgufMetadata> {
  const file = await GgufFile.open(path);
  await file.close();
  return file.metadata;
}

// Names of the same tensors in llama.cpp and in Hugging Face checkpoints.

type Names = ReadonlyMap<string, string>;

/** Names without `.weight` or `.bias`: Hugging Face's by llama.cpp's. */
const MODEL_PARTS: Names = new Map([
  ["token_embd", "model.embed_tokens"],
  ["output", "lm_head"],
  ["output_norm", "model.norm"],
  // LFM 2.
  ["token_embd_norm", "model.norm"],
  // Gemma 4.
  ["per_layer_token_embd", "model.embed_tokens_per_layer"],
  ["per_layer_model_proj", "model.per_layer_model_projection"],
  ["per_layer_proj_norm", "model.per_layer_projection_norm"],
]);

/** Names within a layer, behind `blk.N.` and `model.layers.N.`. */
const LAYER_PARTS: Names = new Map([
  ["attn_q", "self_attn.q_proj"],
  ["attn_k", "self_attn.k_proj"],
  ["attn_v", "self_attn.v_proj"],
  ["attn_output", "self_attn.o_proj"],
  ["attn_sinks", "self_attn.sinks"],
  ["attn_q_norm", "self_attn.q_norm"],
  ["attn_k_norm", "self_attn.k_norm"],
  ["attn_q_a", "self_attn.q_a_proj"],
  ["attn_q_a_norm", "self_attn.q_a_layernorm"],
  ["attn_q_b", "self_attn.q_b_proj"],
  ["attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"],
  ["attn_kv_a_norm", "self_attn.kv_a_layernorm"],
  ["attn_kv_b", "self_attn.kv_b_proj"],
  ["attn_k_b", "self_attn.k_b_proj"],
  ["attn_v_b", "self_attn.v_b_proj"],
  ["ffn_gate", "mlp.gate_proj"],
  ["ffn_up", "mlp.up_proj"],
  ["ffn_down", "mlp.down_proj"],
  ["ffn_gate_inp", "mlp.gate"],
  ["ffn_gate_exps", "mlp.experts.gate_proj"],
  ["ffn_up_exps", "mlp.experts.up_proj"],
  ["ffn_down_exps", "mlp.experts.down_proj"],
  ["ffn_gate_up_exps", "mlp.experts.gate_up_proj"],
  ["ffn_gate_inp_shexp", `${SHARED_MODULE}_gate`],
  ["ffn_gate_shexp", `${SHARED_MODULE}.gate_proj`],
  ["ffn_up_shexp", `${SHARED_MODULE}.up_proj`],
  ["ffn_down_shexp", `${SHARED_MODULE}.down_proj`],
  ["exp_probs_b", "mlp.expert_bias"],
  ["inp_gate", "per_layer_input_gate"],
  ["proj", "per_layer_projection"],
  ["post_norm", "post_per_layer_input_norm"],
  ["pre_ffw_norm_2", "pre_feedforward_layernorm_2"],
  ["post_ffw_norm_1", "post_feedforward_layernorm_1"],
  ["post_ffw_norm_2", "post_feedforward_layernorm_2"],
  ["layer_output_scale", "layer_scalar"],
]);

/** Names of a recurrence's tensors within a layer, with their endings. */
const RECURRENT_PARTS: Readonly<Record<RecurrenceConfig["kind"], Names>> = {
  convolution: new Map([
    ["shortconv.in_proj.weight", "conv.in_proj.weight"],
    ["shortconv.conv.weight", "conv.conv.weight"],
    ["shortconv.out_proj.weight", "conv.out_proj.weight"],
  ]),
  delta: new Map([
    ["attn_qkv.weight", "linear_attn.in_proj_qkv.weight"],
    ["attn_gate.weight", "linear_attn.in_proj_z.weight"],
    ["ssm_beta.weight", "linear_attn.in_proj_b.weight"],
    ["ssm_alpha.weight", "linear_attn.in_proj_a.weight"],
    ["ssm_ba.weight", "linear_attn.in_proj_ba.weight"],
    ["ssm_conv1d.weight", "linear_attn.conv1d.weight"],
    ["ssm_dt.bias", "linear_attn.dt_bias"],
    ["ssm_a", "linear_attn.rates"],
    ["ssm_norm.weight", "linear_attn.norm.weight"],
    ["ssm_out.weight", "linear_attn.out_proj.weight"],
  ]),
  space: new Map([
    ["ssm_in.weight", "mamba.in_proj.weight"],
    ["ssm_conv1d.weight", "mamba.conv1d.weight"],
    ["ssm_conv1d.bias", "mamba.conv1d.bias"],
    ["ssm_dt.bias", "mamba.dt_bias"],
    ["ssm_a", "mamba.rates"],
    ["ssm_d", "mamba.D"],
    ["ssm_norm.weight", "mamba.norm.weight"],
    ["ssm_out.weight", "mamba.out_proj.weight"],
  ]),
};

/** Names of further tensors within a layer, with their endings (Gemma 4). */
const SCALE_PARTS: Names = new Map([
  ["ffn_gate_inp.scale", "mlp.gate.scale"],
  ["ffn_down_exps.scale", "mlp.gate.per_expert_scale"],
]);

const GGML_LAYER = /^blk\.(?<layer>0|[1-9]\d*)\.(?<rest>.+)$/;

/** Names of one expert's products in files of early mixtures, in front of its index. */
const EXPERT_PARTS: Names = new Map([
  ["ffn_gate", "gate_proj"],
  ["ffn_up", "up_proj"],
  ["ffn_down", "down_proj"],
]);

/** Roles of a layer's norms, whose names in llama.cpp are the same in all families. */
const NORM_PARTS: ReadonlyMap<string, keyof NormNames> = new Map([
  ["attn_norm", "attention"],
  ["post_attention_norm", "attentionOutput"],
  ["ffn_norm", "ffn"],
  ["post_ffw_norm", "ffnOutput"],
]);

const GGML_EXPERT = /^blk\.(?<layer>0|[1-9]\d*)\.(?<part>[^.]+)\.(?<expert>0|[1-9]\d*)\.weight$/;

/** Parts of a family that names of tensors depend on. */
export type NamingFamily = Pick<Family, "norms" | "fused" | "recurrence" | "hasSinks">;

/**
 * Translates a name of a GGUF file, such as `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`. An
 * unknown name stays as it is.
 */
export function hfNameOf(ggmlName: string, family: NamingFamily = { norms: NORMS_BEFORE }): string {
  const { layer: block, rest = "" } = GGML_LAYER.exec(ggmlName)?.groups ?? {};
  const whole = (family.recurrence && RECURRENT_PARTS[family.recurrence.kind].get(rest)) ?? SCALE_PARTS.get(rest);
  if (whole !== undefined) return `model.layers.${block}.${whole}`;
  const { layer, part = "", kind } = GGML_NAME.exec(ggmlName)?.groups ?? {};
  if (kind === undefined) return hfNameOfExpert(ggmlName);
  const hfPart = layer === undefined ? MODEL_PARTS.get(part) : layerPart(part, family);
  if (hfPart === undefined) return ggmlName;
  return layer === undefined ? `${hfPart}.${kind}` : `model.layers.${layer}.${hfPart}.${kind}`;
}

/** Translates a name such as `blk.3.ffn_gate.5.weight`. */
function hfNameOfExpert(ggmlName: string): string {
  const { layer, part = "", expert } = GGML_EXPERT.exec(ggmlName)?.groups ?? {};
  const hfPart = EXPERT_PARTS.get(part);
  return hfPart === undefined ? ggmlName : `model.layers.${layer}.mlp.experts.${expert}.${hfPart}.weight`;
}

/** Tells whether a tensor's rows are those of queries or keys, which some architectures order by rotary pairs. */
function rotaryPartOf(ggmlName: string): { readonly layer: number; readonly part: "attn_q" | "attn_k" } | undefined {
  const { layer, part } = GGML_NAME.exec(ggmlName)?.groups ?? {};
  return layer !== undefined && (part === "attn_q" || part === "attn_k") ? { layer: Number(layer), part } : undefined;
}

function layerPart(part: string, { norms, fused, recurrence, hasSinks }: NamingFamily): string | undefined {
  // Converters split gate and up again unless attention is fused, too. Fused rows are named `ffn_up` as well.
  if (fused?.qkv !== undefined && part === "attn_qkv") return fused.qkv;
  if (fused?.qkv !== undefined && part === "ffn_up") return fused.gateUp;
  const role = NORM_PARTS.get(part);
  if (role === undefined) return LAYER_PARTS.get(part);
  // Files of Qwen 3.5 and gpt-oss give the norm in front of the FFN this name.
  return role === "attentionOutput" && (recurrence?.kind === "delta" || hasSinks) ? norms.ffn : norms[role];
}
