import { dirname } from "node:path";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { allocateFor, invalid, notFound, quoted } from "../files/errors.ts";
import { resolveInside } from "../files/file-name.ts";
import { decodeBf16, decodeF16, decodeF32, decodeF64 } from "../files/floats.ts";
import { ByteSource, expectObject, orClose, parseJson, readTextFile, together } from "../files/read-file.ts";
import { writeFileAtomically } from "../files/write-file.ts";
import { ggmlTypeOf, isBlockType } from "../gguf/ggml-types.ts";
import {
  type BlockType,
  countValues,
  rowBytes,
  type RowRange,
  type StoredType,
  type TensorInfo,
  type TensorStore,
} from "../tensor-store.ts";
import {
  isSafetensorsType,
  MAX_HEADER_BYTES,
  METADATA_KEY,
  readSafetensorsHeader,
  SAFETENSORS_TYPE_BYTES,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type SafetensorsMetadata,
  type SafetensorsType,
  shapeInBytes,
  textsOf,
} from "./header.ts";

const DECODERS: ReadonlyMap<StoredType, (bytes: Uint8Array) => Float32Array> = new Map([
  ["F64", decodeF64],
  ["F32", decodeF32],
  ["F16", decodeF16],
  ["BF16", decodeBf16],
]);

/** A `.safetensors` file with a checked header, whose tensors are read on demand. */
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

  /** @throws {ReadMeError} when the file cannot be read, is damaged, or holds an element type that is not read here */
  static async open(path: string, maxHeaderBytes: number = MAX_HEADER_BYTES): Promise<SafetensorsFile> {
    const source = await ByteSource.open(path);
    return orClose(
      source,
      async () => new SafetensorsFile(source, await readSafetensorsHeader(source, maxHeaderBytes)),
    );
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** @returns also the tensor's `offset` from the start of the file, in bytes */
  info(name: string): SafetensorsEntry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw noTensor(this.path, name);
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
    const decode = DECODERS.get(type) ?? (isBlockType(type) ? ggmlTypeOf(type)?.dequantize : undefined);
    if (decode === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${subject} holds ${type}, not floats`);
    const bytes = await this.readBytes(name, rows);
    return allocateFor(subject, () => decode(bytes));
  }

  async close(): Promise<void> {
    await this.#source.close();
  }
}

/** A checkpoint in several files, described by `model.safetensors.index.json`. Each file is opened once. */
export class ShardedSafetensors implements TensorStore {
  /** The index file. */
  readonly path: string;
  readonly names: readonly string[];
  /** Shards by their names in the index. */
  readonly #shards: ReadonlyMap<string, SafetensorsFile>;
  readonly #shardOf: ReadonlyMap<string, string>;

  private constructor(
    path: string,
    shardOf: ReadonlyMap<string, string>,
    shards: ReadonlyMap<string, SafetensorsFile>,
  ) {
    this.path = path;
    this.names = [...shardOf.keys()];
    this.#shardOf = shardOf;
    this.#shards = shards;
  }

  /**
   * Opens every shard and checks that it holds the tensors that the index names.
   * @param path - the index file
   * @throws {ReadMeError} `ERR_MODEL_INVALID`, naming index, shard and tensor, when they disagree
   */
  static async open(path: string): Promise<ShardedSafetensors> {
    const shardOf = await readWeightMap(path);
    const shards = new Map<string, SafetensorsFile>();
    return orClose(together(shards.values()), async () => {
      for (const [name, shardName] of shardOf) {
        const shard = shards.get(shardName) ?? (await openShard(path, shardName, name));
        shards.set(shardName, shard);
        if (shard.has(name)) continue;
        const message = `says that tensor ${quoted(name)} is in ${quoted(shardName)}, but ${shard.path} has no such tensor`;
        throw invalid(path, message);
      }
      return new ShardedSafetensors(path, shardOf, shards);
    });
  }

  /** Paths of the files that hold the tensors. */
  get shardPaths(): readonly string[] {
    return [...this.#shards.values()].map((shard) => shard.path);
  }

  has(name: string): boolean {
    return this.#shardOf.has(name);
  }

  info(name: string): TensorInfo {
    return this.#shard(name).info(name);
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    return this.#shard(name).readBytes(name, rows);
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    return this.#shard(name).readFloats(name, rows);
  }

  async close(): Promise<void> {
    await together(this.#shards.values()).close();
  }

  #shard(name: string): SafetensorsFile {
    const shard = this.#shards.get(this.#shardOf.get(name) ?? "");
    if (shard === undefined) throw noTensor(this.path, name);
    return shard;
  }
}

/** @returns the shard's name by tensor name */
export async function readWeightMap(path: string): Promise<ReadonlyMap<string, string>> {
  const text = await readTextFile(path, MAX_HEADER_BYTES);
  if (text === undefined) throw notFound(path, "no such file");
  const index = expectObject(path, "the file", parseJson(path, text, true));
  return textsOf(path, "weight_map", index["weight_map"]);
}

async function openShard(indexPath: string, shardName: string, tensorName: string): Promise<SafetensorsFile> {
  const namedBy = `${indexPath}: tensor ${quoted(tensorName)}`;
  return SafetensorsFile.open(await resolveInside(dirname(indexPath), shardName, namedBy));
}

function noTensor(path: string, name: string): ReadMeError {
  return invalid(path, `has no tensor ${quoted(name)}`);
}

/** A tensor to be written. */
export interface SafetensorsInput {
  readonly name: string;
  /** Blocks are written as bytes, and the file's metadata name their type by the name of the tensor. */
  readonly type: SafetensorsType | BlockType;
  /** Outermost dimension first; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Makes the data, little-endian and row-major; called once, just before the data is written. */
  readonly bytes: () => Promise<Uint8Array>;
}

interface SizedInput {
  readonly tensor: SafetensorsInput;
  readonly byteLength: number;
}

/**
 * Writes a `.safetensors` file, whole or not at all, holding one tensor in memory at a time.
 *
 * Data is written in the order of `tensors`, without gaps, so successive tensors are one range of bytes.
 *
 * @throws {TypeError | RangeError} when a name, type or shape cannot be written; before anything is written
 * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when a tensor's `bytes` fails or yields a wrong length
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly SafetensorsInput[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const sized = tensors.map((tensor) => ({ tensor, byteLength: byteLengthOf(tensor) }));
  await writeFileAtomically(path, chunks(encodeHeader(sized, metadata), sized));
}

async function* chunks(header: Uint8Array, tensors: readonly SizedInput[]): AsyncGenerator<Uint8Array, void> {
  yield header;
  for (const { tensor, byteLength } of tensors) {
    const bytes = await tensor.bytes();
    if (bytes.byteLength !== byteLength) {
      throw new RangeError(
        `Expected tensor ${quoted(tensor.name)} to have ${byteLength} bytes, got ${bytes.byteLength}`,
      );
    }
    yield bytes;
  }
}

function byteLengthOf({ name, type, shape }: Omit<SafetensorsInput, "bytes">): number {
  if (isBlockType(type)) return byteLengthOf({ name, type: "U8", shape: bytesShapeOf(name, shape, type) });
  if (!isSafetensorsType(type))
    throw new TypeError(`Expected tensor ${quoted(name)} to have a safetensors type, got ${describeValue(type)}`);
  const isShape = shape.every((size) => Number.isSafeInteger(size) && size >= 0);
  const byteLength = isShape ? (countValues(shape) ?? Infinity) * (SAFETENSORS_TYPE_BYTES.get(type) ?? 0) : NaN;
  if (!Number.isSafeInteger(byteLength)) {
    throw new RangeError(
      `Expected tensor ${quoted(name)} to have a shape of non-negative integers, got [${shape.join(", ")}]`,
    );
  }
  return byteLength;
}

function bytesShapeOf(name: string, shape: readonly number[], type: BlockType): readonly number[] {
  const inBytes = shapeInBytes(shape, type);
  if (inBytes) return inBytes;
  throw new RangeError(
    `Expected tensor ${quoted(name)} to have rows of whole ${type} blocks, got [${shape.join(", ")}]`,
  );
}

function encodeHeader(tensors: readonly SizedInput[], given: Readonly<Record<string, string>>): Uint8Array {
  const blocks = tensors.flatMap(({ tensor: { name, type } }) => (isBlockType(type) ? [[name, type] as const] : []));
  const metadata: Readonly<Record<string, string>> = { ...given, ...Object.fromEntries(blocks) };
  const names = new Set<string>([METADATA_KEY]);
  let offset = 0;
  // Member by member: an object would move names that look like integers to its front.
  const members = Object.keys(metadata).length === 0 ? [] : [`"${METADATA_KEY}":${JSON.stringify(metadata)}`];
  for (const { tensor, byteLength } of tensors) {
    const { name, type } = tensor;
    const [dtype, shape] = isBlockType(type) ? ["U8", bytesShapeOf(name, tensor.shape, type)] : [type, tensor.shape];
    if (names.has(name))
      throw new TypeError(`Expected tensor names to be unique and not \`${METADATA_KEY}\`, got ${quoted(name)}`);
    names.add(name);
    const end = offset + byteLength;
    members.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":${JSON.stringify(shape)},"data_offsets":[${offset},${end}]}`,
    );
    offset = end;
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const paddedLength = Math.ceil(json.byteLength / 8) * 8;
  if (paddedLength > MAX_HEADER_BYTES) {
    throw new RangeError(`Expected the tensors' header to have at most ${MAX_HEADER_BYTES} bytes, got ${paddedLength}`);
  }
  const bytes = new Uint8Array(8 + paddedLength).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(paddedLength), true);
  bytes.set(json, 8);
  return bytes;
}
