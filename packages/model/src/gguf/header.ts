import { ReadMeError } from "@readme-moe/core";
import type { ByteSource } from "../files/byte-source.ts";
import { quoted } from "../files/errors.ts";
import { HeaderWindow } from "./header-window.ts";
import { countValues } from "../tensor-store.ts";
import { GGML_TYPES, type GgmlType } from "./ggml-types.ts";
import { type GgufMetadata, type GgufValue, readTypedValue } from "./metadata.ts";

const MAGIC = 0x4655_4747; // "GGUF"
const DEFAULT_ALIGNMENT = 32;
const MAX_DIMENSIONS = 4; // ggml's own limit
// Smallest sizes of a key with its value, and of a tensor, in a file.
const MIN_ENTRY_BYTES = 13;
const MIN_TENSOR_BYTES = 24;
// Files have some 50 entries, and those with a tensor for each expert of a layer some 5,000 tensors.
const MAX_ENTRIES = 65_536;
const MAX_TENSORS = 65_536;

export interface GgufHeader {
  readonly version: number;
  readonly metadata: GgufMetadata;
  /** Tensors by the file's own names, in the file's order. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
}

/**
 * Reads and checks everything in front of the tensors' data.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, or `ERR_MODEL_UNSUPPORTED` for another version or byte order
 */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  const window = new HeaderWindow(source);
  const version = await window.item("the header", () => readVersion(source.path, window));
  const counts = await window.item("the header", () => {
    const tensors = window.size();
    const entries = window.size();
    window.expect(entries, MIN_ENTRY_BYTES, "metadata entries");
    window.expect(tensors, MIN_TENSOR_BYTES, "tensors");
    if (entries > MAX_ENTRIES) throw window.problem(`has ${entries} metadata entries, more than ${MAX_ENTRIES}`);
    if (tensors > MAX_TENSORS) throw window.problem(`has ${tensors} tensors, more than ${MAX_TENSORS}`);
    return { tensors, entries };
  });
  const metadata = await readMetadata(window, counts.entries);
  const alignment = alignmentOf(source.path, metadata);
  const infos = new Map<string, RawTensorInfo>();
  for (let i = 0; i < counts.tensors; i++) {
    const info = await window.item(`tensor ${i} of ${counts.tensors}`, () => readTensorInfo(window));
    if (infos.has(info.name)) throw window.problem(`has the name ${quoted(info.name)}, which another has already`);
    infos.set(info.name, info);
  }
  const dataStart = Math.ceil(window.position / alignment) * alignment;
  return { version, metadata, tensors: layOutTensors(source, infos.values(), dataStart, alignment) };
}

function readVersion(path: string, window: HeaderWindow): number {
  if (window.uint32() !== MAGIC) throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: is no GGUF file`);
  const version = window.uint32();
  if (version === 2 || version === 3) return version;
  const isBigEndian = version !== 0 && (version & 0xffff) === 0;
  const what = isBigEndian ? "a big-endian GGUF file" : `a GGUF file of version ${version}`;
  throw new ReadMeError(
    "ERR_MODEL_UNSUPPORTED",
    `${path}: is ${what}; only little-endian versions 2 and 3 are supported`,
  );
}

async function readMetadata(window: HeaderWindow, count: number): Promise<GgufMetadata> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const { key, value } = await window.item(`metadata entry ${i} of ${count}`, () => {
      const name = window.string();
      window.subject = `metadata ${quoted(name)}`;
      return { key: name, value: readTypedValue(window) };
    });
    if (metadata.has(key)) throw window.problem("is there twice");
    metadata.set(key, value);
  }
  return metadata;
}

function alignmentOf(path: string, metadata: GgufMetadata): number {
  const alignment = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  const isValid = typeof alignment === "number" && Number.isInteger(Math.log2(alignment)) && alignment >= 8;
  if (isValid) return alignment;
  const message = `${path}: metadata "general.alignment" is ${quoted(String(alignment))}, not a power of two from 8 up`;
  throw new ReadMeError("ERR_FILE_CORRUPT", message);
}

function readTensorInfo(window: HeaderWindow): RawTensorInfo {
  const name = window.string();
  window.subject = `tensor ${quoted(name)}`;
  const numDimensions = window.uint32();
  if (numDimensions > MAX_DIMENSIONS)
    throw window.problem(`has ${numDimensions} dimensions, more than ${MAX_DIMENSIONS}`);
  const shape = Array.from({ length: numDimensions }, () => window.size()).toReversed();
  window.spend(4);
  return { name, shape, ggmlType: window.uint32(), offset: window.size() };
}

/** Unchecked description of a tensor: `shape` outermost first, `offset` from the start of the data. */
interface RawTensorInfo {
  readonly name: string;
  readonly shape: readonly number[];
  readonly ggmlType: number;
  readonly offset: number;
}

export interface GgufTensorInfo {
  readonly name: string;
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  /** The type's number in the file. */
  readonly ggmlType: number;
  /** `undefined` for an unknown number. */
  readonly type: GgmlType | undefined;
  /** Offset from the start of the file, in bytes. */
  readonly offset: number;
  /** `undefined` when `type` is. */
  readonly byteLength: number | undefined;
}

/** Computes each tensor's place in the file and checks it: whole blocks, aligned, in range, no overlap. */
function layOutTensors(
  source: ByteSource,
  infos: Iterable<RawTensorInfo>,
  dataStart: number,
  alignment: number,
): ReadonlyMap<string, GgufTensorInfo> {
  const tensors = new Map<string, GgufTensorInfo>();
  for (const info of infos) {
    const fault = (problem: string): ReadMeError =>
      new ReadMeError("ERR_FILE_CORRUPT", `${source.path}: tensor ${quoted(info.name)} ${problem}`);
    const type = GGML_TYPES.get(info.ggmlType);
    const byteLength = type === undefined ? undefined : byteLengthOf(info, type, fault);
    const dataBytes = Math.max(0, source.size - dataStart);
    if (info.offset + (byteLength ?? 0) > dataBytes) {
      const extent =
        byteLength === undefined ? `starts at byte ${info.offset}` : `ends at byte ${info.offset + byteLength}`;
      throw fault(`${extent} of the data, but the file holds ${dataBytes}`);
    }
    if (info.offset % alignment !== 0)
      throw fault(`starts at byte ${info.offset} of the data, which is not aligned to ${alignment}`);
    tensors.set(info.name, { ...info, type, byteLength, offset: dataStart + info.offset });
  }
  checkOverlap(source.path, tensors);
  return tensors;
}

function byteLengthOf(info: RawTensorInfo, type: GgmlType, fault: (problem: string) => ReadMeError): number {
  const rowLength = info.shape.at(-1) ?? 1;
  if (rowLength % type.blockValues !== 0) {
    throw fault(`has rows of ${rowLength} values, which are no whole ${type.name} blocks of ${type.blockValues}`);
  }
  const numValues = info.shape.every(Number.isSafeInteger) ? countValues(info.shape) : undefined;
  if (numValues === undefined) throw fault(`has the impossible shape [${info.shape.join(", ")}]`);
  return (numValues / type.blockValues) * type.blockBytes;
}

function checkOverlap(path: string, tensors: ReadonlyMap<string, GgufTensorInfo>): void {
  const byOffset = [...tensors.values()].toSorted(
    (a, b) => a.offset - b.offset || (a.byteLength ?? 0) - (b.byteLength ?? 0),
  );
  let before: GgufTensorInfo | undefined;
  for (const tensor of byOffset) {
    // A tensor without bytes overlaps nothing.
    if (tensor.byteLength === 0) continue;
    if (before !== undefined && tensor.offset < before.offset + (before.byteLength ?? 0)) {
      const message = `${path}: tensor ${quoted(tensor.name)} overlaps tensor ${quoted(before.name)}`;
      throw new ReadMeError("ERR_FILE_CORRUPT", message);
    }
    before = tensor;
  }
}
