import { isRecord, type ReadMeError } from "@readme-moe/core";
import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { type ByteSource, expectObject, isList, parseJson } from "../files/read-file.ts";
import { blockLayoutOf, isBlockType } from "../gguf/ggml-types.ts";
import { type BlockType, countValues, type StoredType, type TensorInfo } from "../tensor-store.ts";

/** Element types that the format has, as far as this project reads and writes them. */
export type SafetensorsType = Exclude<StoredType, BlockType>;

/** Bytes per element. */
export const SAFETENSORS_TYPE_BYTES: ReadonlyMap<string, number> = new Map<SafetensorsType, number>([
  ["F64", 8],
  ["F32", 4],
  ["F16", 2],
  ["BF16", 2],
  ["I64", 8],
  ["I32", 4],
  ["I16", 2],
  ["I8", 1],
  ["U8", 1],
  ["BOOL", 1],
]);

/** Types of the format that this project does not read. */
const UNREAD_TYPES: ReadonlySet<string> = new Set(
  "U64 U32 U16 C64 F8_E4M3 F8_E5M2 F8_E4M3FNUZ F8_E5M2FNUZ F8_E8M0 F6_E2M3 F6_E3M2 F4".split(" "),
);

/** Key of the file's metadata among the tensors of the header, which is one JSON object. */
export const METADATA_KEY = "__metadata__";

/** Largest JSON text. The format allows 100 MB; 150,000 tensors need 20. */
export const MAX_HEADER_BYTES = 33_554_432;
const MAX_DIMENSIONS = 16;
/** Most tensors of an index, and entries of metadata. The largest checkpoints have some 150,000 tensors. */
const MAX_TENSORS = 2 ** 18;

export interface SafetensorsEntry extends TensorInfo {
  /** Type of the elements, or of the blocks that the file has as bytes. */
  readonly type: StoredType;
  /** Offset from the start of the file, in bytes. */
  readonly offset: number;
}

/** The metadata of a file, such as `{ format: "pt" }`. */
export type SafetensorsMetadata = ReadonlyMap<string, string>;

export interface SafetensorsHeader {
  /** Tensors in the header's order. */
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  readonly metadata: SafetensorsMetadata;
}

export function isSafetensorsType(name: string): name is SafetensorsType {
  return SAFETENSORS_TYPE_BYTES.has(name);
}

/**
 * Reads and checks the header: 8 bytes of length, the JSON text, then data that the tensors cover exactly, without
 * overlap or hole.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, or `ERR_MODEL_UNSUPPORTED` for an element type that is not read here
 */
export async function readSafetensorsHeader(
  source: ByteSource,
  maxBytes: number = MAX_HEADER_BYTES,
): Promise<SafetensorsHeader> {
  const { path } = source;
  const { json, byteLength } = await readHeaderText(source, maxBytes);
  const entries = new Map<string, SafetensorsEntry>();
  let metadata: SafetensorsMetadata = new Map();
  const header = expectObject(path, "the header", parseJson(`${path}: the header`, json, true));
  for (const [name, value] of Object.entries(header)) {
    if (name === METADATA_KEY) metadata = textsOf(path, METADATA_KEY, value);
    else entries.set(name, entryOf(source, 8 + byteLength, name, value));
  }
  checkLayout(source, 8 + byteLength, entries);
  for (const [name, type] of metadata) {
    const entry = entries.get(name);
    if (entry?.type === "U8" && isBlockType(type)) entries.set(name, withBlocks(path, entry, type));
  }
  return { entries, metadata };
}

/** Checks that the field `name` is an object of texts. @throws {ReadMeError} `ERR_FILE_CORRUPT` */
export function textsOf(path: string, name: string, value: unknown): ReadonlyMap<string, string> {
  const entries = Object.entries(expectObject(path, `\`${name}\``, value));
  if (entries.length <= MAX_TENSORS && entries.every(hasText)) return new Map(entries);
  throw corrupt(path, `expected \`${name}\` to be an object of at most ${MAX_TENSORS} texts`);
}

function hasText(entry: [string, unknown]): entry is [string, string] {
  return typeof entry[1] === "string";
}

async function readHeaderText(
  source: ByteSource,
  maxBytes: number,
): Promise<{ readonly json: string; readonly byteLength: number }> {
  const { path, size } = source;
  const prefix = await source.read(0, 8, "the header's length");
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(size - 8)) {
    const message = `its header says ${length} bytes, the file has ${size}`;
    throw corrupt(path, `is no whole safetensors file: ${message}`);
  }
  const byteLength = Number(length);
  if (byteLength > maxBytes) {
    throw corrupt(path, `the header has ${byteLength} bytes, more than the ${maxBytes} that are read`);
  }
  const bytes = await source.read(8, byteLength, "the header");
  try {
    return { json: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), byteLength };
  } catch (cause) {
    throw corrupt(path, "the header is no valid UTF-8", { cause });
  }
}

function entryOf(source: ByteSource, dataStart: number, name: string, value: unknown): SafetensorsEntry {
  const fault = (problem: string): ReadMeError => corrupt(source.path, `tensor ${quoted(name)} ${problem}`);
  const { dtype: type, shape, data_offsets: offsets } = isRecord(value) ? value : {};
  if (typeof type !== "string" || !areIntegers(shape) || !areIntegers(offsets)) {
    throw fault("has no text as `dtype`, or no short lists of integers as `shape` and `data_offsets`");
  }
  if (!isSafetensorsType(type)) {
    if (!UNREAD_TYPES.has(type)) throw fault(`has the unknown type ${quoted(type)}`);
    throw unsupported(source.path, `tensor ${quoted(name)} has the type ${type}, which is not supported`);
  }
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || offsets.length !== 2 || begin > end) {
    throw fault("has `data_offsets` that are not a begin and an end");
  }
  const dataBytes = source.size - dataStart;
  if (end > dataBytes) throw fault(`ends at byte ${end} of the data, but the file holds ${dataBytes}`);
  const values = countValues(shape);
  const byteLength = values === undefined ? Infinity : values * (SAFETENSORS_TYPE_BYTES.get(type) ?? 0);
  if (byteLength !== end - begin) {
    throw fault(`has ${end - begin} bytes, but ${type} of shape [${shape.slice(0, 8).join(", ")}] does not`);
  }
  return { name, type, shape, byteLength, offset: dataStart + begin };
}

/**
 * Returns the shape of the bytes of a tensor in blocks, whose rows are whole blocks.
 * @returns `undefined` when they are not
 */
export function shapeInBytes(shape: readonly number[], type: BlockType): readonly number[] | undefined {
  const { values = 1, bytes = 1 } = blockLayoutOf(type) ?? {};
  const width = shape.at(-1);
  return width === undefined || width % values !== 0 ? undefined : [...shape.slice(0, -1), (width / values) * bytes];
}

/** Describes a tensor of bytes by the blocks that they are. */
function withBlocks(path: string, entry: SafetensorsEntry, type: BlockType): SafetensorsEntry {
  const { values = 1, bytes = 1 } = blockLayoutOf(type) ?? {};
  const rowBytes = entry.shape.at(-1);
  if (rowBytes !== undefined && rowBytes % bytes === 0) {
    return { ...entry, type, shape: [...entry.shape.slice(0, -1), (rowBytes / bytes) * values] };
  }
  const problem = `has rows of ${rowBytes} bytes, which are no whole ${type} blocks of ${bytes}`;
  throw corrupt(path, `tensor ${quoted(entry.name)} ${problem}`);
}

function areIntegers(value: unknown): value is readonly number[] {
  if (!isList(value) || value.length > MAX_DIMENSIONS) return false;
  return value.every((one) => Number.isSafeInteger(one) && Number(one) >= 0);
}

function checkLayout(source: ByteSource, dataStart: number, entries: ReadonlyMap<string, SafetensorsEntry>): void {
  // Empty tensors are between others, so they come before a tensor that starts at the same offset.
  const byOffset = [...entries.values()].toSorted((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  let position = dataStart;
  let before: SafetensorsEntry | undefined;
  for (const entry of byOffset) {
    if (entry.offset !== position) {
      const neighbour = before === undefined ? "the start of the data" : `tensor ${quoted(before.name)}`;
      const fault = entry.offset < position ? "overlaps" : "leaves a gap after";
      throw corrupt(source.path, `tensor ${quoted(entry.name)} ${fault} ${neighbour}`);
    }
    position += entry.byteLength;
    before = entry;
  }
  if (position !== source.size) {
    throw corrupt(source.path, `has ${source.size - position} bytes after its last tensor`);
  }
}
