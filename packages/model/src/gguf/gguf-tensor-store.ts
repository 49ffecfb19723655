import { ReadMeError } from "@readme-moe/core";
import { allocateFor, quoted } from "../files/errors.ts";
import { checkRows, type RowRange, type TensorInfo, type TensorStore } from "../tensor-store.ts";
import { GgufFile } from "./gguf-file.ts";
import { pickHfRows } from "./rotary-rows.ts";
import { hfNameOf, permutedPartOf } from "./tensor-names.ts";

/**
 * A GGUF file as a Hugging Face checkpoint: names and row order are Hugging Face's. Tensors that have
 * no name there, such as `rope_freqs.weight`, keep their own.
 *
 * For the architecture `llama` (which Mistral's files are, too) the file's q_proj and k_proj rows are in another
 * order, which is undone; the head counts come from the metadata.
 */
export class GgufTensorStore implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  /** The file underneath, for its metadata. */
  readonly file: GgufFile;
  readonly #architecture: string;
  /** The file's names by Hugging Face's. */
  readonly #ggmlNames: ReadonlyMap<string, string>;

  /** @throws {ReadMeError} `ERR_MODEL_INVALID` without `general.architecture`; `ERR_FILE_CORRUPT` when two tensors have one name */
  constructor(file: GgufFile) {
    const architecture = file.metadata.get("general.architecture");
    if (typeof architecture !== "string") {
      throw new ReadMeError("ERR_MODEL_INVALID", `${file.path}: has no metadata "general.architecture"`);
    }
    const ggmlNames = new Map<string, string>();
    for (const ggmlName of file.tensors.keys()) {
      const name = hfNameOf(ggmlName);
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
    this.#ggmlNames = ggmlNames;
  }

  /** @throws {ReadMeError} as `GgufFile.open` and the constructor */
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
    return { ...this.file.info(this.#ggmlName(name)), name };
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const ggmlName = this.#ggmlName(name);
    const headSize = this.#permutedHeadSize(ggmlName);
    if (headSize === undefined) return this.file.readBytes(ggmlName, rows);
    const { shape } = this.file.info(ggmlName);
    const wanted = rows ?? { from: 0, to: shape[0] ?? 1 };
    checkRows(shape, wanted);
    // A head's rows are mixed among themselves only, so the heads that `wanted` touches hold all of it.
    const from = wanted.from - (wanted.from % headSize);
    const to = Math.ceil(wanted.to / headSize) * headSize;
    const fileRows = await this.file.readBytes(ggmlName, { from, to });
    // Rows without bytes can be more than could ever be counted through.
    if (fileRows.byteLength === 0) return fileRows;
    const subject = `${this.path}: tensor ${quoted(ggmlName)}`;
    return allocateFor(subject, () => pickHfRows(fileRows, from, fileRows.byteLength / (to - from), headSize, wanted));
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const ggmlName = this.#ggmlName(name);
    if (this.#permutedHeadSize(ggmlName) === undefined) return this.file.readFloats(ggmlName, rows);
    return this.file.decode(ggmlName, await this.readBytes(name, rows));
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

  /** @returns rows per head, or `undefined` for a tensor whose rows are in Hugging Face order already */
  #permutedHeadSize(ggmlName: string): number | undefined {
    const permuted = this.#architecture === "llama" ? permutedPartOf(ggmlName) : undefined;
    if (permuted === undefined) return undefined;
    const numHeads = this.#numHeads(ggmlName, permuted.layer, permuted.part);
    const numRows = this.file.info(ggmlName).shape[0] ?? 1;
    const headSize = numRows / numHeads;
    if (headSize >= 2 && headSize % 2 === 0) return headSize;
    // Without rows there is nothing to reorder.
    if (numRows === 0) return undefined;
    const message = `${this.path}: tensor ${quoted(ggmlName)} has ${numRows} rows, which are no ${numHeads} heads of even size`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }

  #numHeads(ggmlName: string, layer: number, part: "attn_q" | "attn_k"): number {
    const { metadata } = this.file;
    const queryKey = "llama.attention.head_count";
    const keyKey = "llama.attention.head_count_kv";
    // A file whose keys have as many heads as its queries may leave their count out.
    const key = part === "attn_k" && metadata.has(keyKey) ? keyKey : queryKey;
    const value = metadata.get(key);
    // Models whose layers differ list one count per layer.
    const count = value instanceof Uint32Array || value instanceof Int32Array ? value[layer] : value;
    if (typeof count === "number" && Number.isInteger(count) && count > 0) return count;
    const message = `${this.path}: tensor ${quoted(ggmlName)} needs a positive head count, which metadata ${quoted(key)} lacks`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }
}
