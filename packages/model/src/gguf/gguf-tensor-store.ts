import { ReadMeError } from "@readme-moe/core";
import { familyOf, modelTypeOf } from "../config/families.ts";
import { allocateFor, quoted } from "../files/errors.ts";
import { encodeFloats } from "../files/floats.ts";
import {
  checkRows,
  countValues,
  type FilePlace,
  type RowRange,
  type TensorInfo,
  type TensorStore,
} from "../tensor-store.ts";
import { GgufFile } from "./gguf-file.ts";
import { hfNameOf, rotaryPartOf } from "./tensor-names.ts";

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
      throw new ReadMeError("ERR_MODEL_INVALID", `${file.path}: has no metadata "general.architecture"`);
    }
    const modelType = modelTypeOf(architecture);
    const family = modelType === undefined ? undefined : familyOf(modelType);
    const ggmlNames = new Map<string, string>();
    for (const ggmlName of file.tensors.keys()) {
      const name = hfNameOf(ggmlName, family?.norms, family?.fused);
      const other = ggmlNames.get(name);
      if (other !== undefined) {
        const message = `${file.path}: tensors ${quoted(other)} and ${quoted(ggmlName)} are both ${quoted(name)}`;
        throw new ReadMeError("ERR_FILE_CORRUPT", message);
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
    try {
      return new GgufTensorStore(file);
    } catch (error) {
      await file.close();
      throw error;
    }
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
    if (ggmlName === undefined)
      throw new ReadMeError("ERR_MODEL_INVALID", `${this.path}: has no tensor ${quoted(name)}`);
    return ggmlName;
  }

  /** Checks that a tensor holds scales of a norm with an offset. */
  #isShifted(ggmlName: string): boolean {
    return this.#normOffset !== 0 && ggmlName.endsWith("norm.weight");
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
    const message = `${this.path}: tensor ${quoted(ggmlName)} has ${numRows} rows, which are no ${numHeads} heads of even size`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }

  /** Rows of a head that are in pairs: those that RoPE rotates. */
  #rotatedSize(headSize: number): number {
    const key = `${this.#architecture}.rope.dimension_count`;
    const size = this.file.metadata.get(key) ?? headSize;
    if (typeof size === "number" && Number.isInteger(size / 2) && size > 0 && size <= headSize) return size;
    const message = `${this.path}: metadata ${quoted(key)} is no even number up to the head size ${headSize}`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
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
    const message = `${this.path}: tensor ${quoted(ggmlName)} needs a positive head count, which metadata ${quoted(key)} lacks`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
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
