import { ReadMeError } from "@readme-moe/core";
import { allocateFor } from "../files/allocation.ts";
import { ByteSource } from "../files/byte-source.ts";
import { decodeBf16, decodeF16, decodeF32, decodeF64 } from "../files/floats.ts";
import { quoted } from "../files/quoted.ts";
import { rowBytes } from "../tensor-shape.ts";
import type { RowRange, TensorStore } from "../tensor-store.ts";
import { readSafetensorsHeader, type SafetensorsHeader } from "./header.ts";
import type { SafetensorsEntry, SafetensorsMetadata, SafetensorsType } from "./types.ts";

const DECODERS: ReadonlyMap<SafetensorsType, (bytes: Uint8Array) => Float32Array> = new Map([
  ["F64", decodeF64],
  ["F32", decodeF32],
  ["F16", decodeF16],
  ["BF16", decodeBf16],
]);

/** A `.safetensors` file, its header checked, its tensors read when asked for. */
export class SafetensorsFile implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly metadata: SafetensorsMetadata;
  readonly #source: ByteSource;
  readonly #entries: ReadonlyMap<string, SafetensorsEntry>;

  private constructor(source: ByteSource, header: SafetensorsHeader) {
    this.path = source.path;
    this.names = [...header.entries.keys()];
    this.metadata = header.metadata;
    this.#source = source;
    this.#entries = header.entries;
  }

  /** @throws {ReadMeError} when the file cannot be read, is damaged, or holds an element type not read here */
  static async open(path: string): Promise<SafetensorsFile> {
    const source = await ByteSource.open(path);
    try {
      return new SafetensorsFile(source, await readSafetensorsHeader(source));
    } catch (error) {
      await source.close();
      throw error;
    }
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** @returns also the tensor's `offset` from the start of the file, in bytes */
  info(name: string): SafetensorsEntry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${this.path}: has no tensor ${quoted(name)}`);
    return entry;
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const entry = this.info(name);
    const { offset, byteLength } = rowBytes(entry, rows);
    return this.#source.read(entry.offset + offset, byteLength, `tensor ${quoted(name)}`);
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const { type } = this.info(name);
    const subject = `${this.path}: tensor ${quoted(name)}`;
    const decode = DECODERS.get(type);
    if (decode === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${subject} holds ${type}, not floats`);
    const bytes = await this.readBytes(name, rows);
    return allocateFor(subject, () => decode(bytes));
  }

  async close(): Promise<void> {
    await this.#source.close();
  }
}
