import { ReadMeError } from "@readme-moe/core";
import type { ByteSource } from "../files/byte-source.ts";
import { quoted } from "../files/errors.ts";
import { HeaderWindow } from "./header-window.ts";
import { readTypedValue } from "./metadata-reader.ts";
import { type GgufTensorInfo, layOutTensors, type RawTensorInfo } from "./tensor-layout.ts";
import type { GgufMetadata, GgufValue } from "./value.ts";

const MAGIC = 0x4655_4747; // "GGUF"
const DEFAULT_ALIGNMENT = 32;
const MAX_DIMENSIONS = 4; // ggml's own limit
// The least that a key with its value, and a tensor, take in a file.
const MIN_ENTRY_BYTES = 13;
const MIN_TENSOR_BYTES = 24;

export interface GgufHeader {
  readonly version: number;
  readonly metadata: GgufMetadata;
  /** By the file's own names, in the file's order. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
}

/**
 * Reads and checks everything before the tensors' data.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, or `ERR_MODEL_UNSUPPORTED` for a version or byte order not read here
 */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  const window = new HeaderWindow(source);
  const version = await window.item("the header", () => readVersion(source.path, window));
  const counts = await window.item("the header", () => {
    const tensors = window.size();
    const entries = window.size();
    window.expect(entries, MIN_ENTRY_BYTES, "metadata entries");
    window.expect(tensors, MIN_TENSOR_BYTES, "tensors");
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
