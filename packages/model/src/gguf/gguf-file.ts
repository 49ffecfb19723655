import { ReadMeError } from "@readme-moe/core";
import { allocateFor, quoted } from "../files/errors.ts";
import { ByteSource } from "../files/byte-source.ts";
import {
  checkRows,
  type FilePlace,
  rowBytes,
  type RowRange,
  type StoredType,
  type TensorInfo,
} from "../tensor-store.ts";
import { type GgufHeader, type GgufTensorInfo, readGgufHeader } from "./header.ts";
import type { GgufMetadata } from "./metadata.ts";

/** GGUF file under its own tensor names and in its own order of rows. `GgufTensorStore` has those of Hugging Face. */
export class GgufFile {
  readonly path: string;
  readonly version: number;
  readonly metadata: GgufMetadata;
  /** Tensors by name, in the file's order, including those of a type that cannot be read. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  readonly #source: ByteSource;

  private constructor(source: ByteSource, { version, metadata, tensors }: GgufHeader) {
    this.path = source.path;
    this.version = version;
    this.metadata = metadata;
    this.tensors = tensors;
    this.#source = source;
  }

  /**
   * Opens a file.
   *
   * @throws {ReadMeError} when the file cannot be read or is damaged, big-endian, or not of version 2 or 3
   */
  static async open(path: string): Promise<GgufFile> {
    const source = await ByteSource.open(path);
    try {
      return new GgufFile(source, await readGgufHeader(source));
    } catch (error) {
      await source.close();
      throw error;
    }
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
    if (tensor === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${this.path}: has no tensor ${quoted(name)}`);
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
