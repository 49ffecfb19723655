import { ReadMeError } from "@readme-moe/core";
import type { ByteSource } from "../files/byte-source.ts";
import { quoted } from "../files/errors.ts";
import { countValues } from "../tensor-store.ts";
import { GGML_TYPES, type GgmlType } from "./ggml-types.ts";

/** A tensor as the header describes it: `shape` outermost first, `offset` from the start of the data. Nothing is checked. */
export interface RawTensorInfo {
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
  /** `undefined` when the number is one that this project does not know. */
  readonly type: GgmlType | undefined;
  /** From the start of the file, in bytes. */
  readonly offset: number;
  /** `undefined` when `type` is. */
  readonly byteLength: number | undefined;
}

/**
 * Gives each tensor its place in the file and checks it: whole blocks, aligned, in range, no overlap.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`
 */
export function layOutTensors(
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
    // Without bytes it shares none, wherever it lies.
    if (tensor.byteLength === 0) continue;
    if (before !== undefined && tensor.offset < before.offset + (before.byteLength ?? 0)) {
      const message = `${path}: tensor ${quoted(tensor.name)} overlaps tensor ${quoted(before.name)}`;
      throw new ReadMeError("ERR_FILE_CORRUPT", message);
    }
    before = tensor;
  }
}
