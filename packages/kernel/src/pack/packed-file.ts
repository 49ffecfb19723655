// The packed file: a description, then tensors, each at a multiple of 64 bytes.

import { createHash } from "node:crypto";
import { basename, dirname } from "node:path";
import { messageOf, ReadMeError } from "@readme-moe/core";
import { cachedData, packedLimitBytes, trimPacked } from "@readme-moe/model";
import {
  type DecoderDescription,
  encodeHeader,
  expertsOf,
  headerBytes,
  type TensorPlace,
  tensorsOf,
} from "../description.ts";
import { kernelThreads } from "../kernel-threads.ts";
import { type Addon, loadAddon, packNatively } from "../native-kernel.ts";
import { openModule } from "../wasm-calls.ts";
import type { PackedPiece, PackedTensor, RowsToPack } from "./block-types.ts";

/** Alignment of every part of a tensor in the file. */
export const UNIT_BYTES = 64;

/** Places of all tensors in the file, and its length. */
interface PackedLayout {
  readonly places: ReadonlyMap<PackedTensor, TensorPlace>;
  readonly numBytes: number;
  /** End of the bytes that are packed; behind them is room for units, which are packed elsewhere. */
  readonly endOfPacked: number;
}

/**
 * Assigns a place to every tensor of a packed file, without reading it.
 *
 * @param hasUnits - whether the file has the units of experts; without them, all units have the same place at its end
 */
export function layOut(description: DecoderDescription, hasUnits = true): PackedLayout {
  const tensors = tensorsOf(description);
  const firsts = new Set(hasUnits ? [] : description.layers.flatMap(expertsOf).map(({ gate }) => gate));
  let end = aligned(headerBytes(description, tensors.length));
  let [endOfPacked, numBytes] = [Infinity, 0];
  const place = (bytes: number): number => {
    if (bytes === 0) return -1;
    const at = end / UNIT_BYTES;
    end += aligned(bytes);
    return at;
  };
  const places = new Map<PackedTensor, TensorPlace>();
  for (const tensor of tensors) {
    if (firsts.has(tensor)) end = endOfPacked = Math.min(end, endOfPacked);
    const { weightBytes, scaleBytes, biasBytes } = tensor;
    places.set(tensor, { weights: place(weightBytes), scales: place(scaleBytes), bias: place(biasBytes) });
    numBytes = Math.max(numBytes, end);
  }
  return { places, numBytes, endOfPacked: Math.min(numBytes, endOfPacked) };
}

/** Yields the file's bytes in order. @param onProgress - called with the number of finished bytes */
export async function* packedFile(
  description: DecoderDescription,
  onProgress?: (doneBytes: number, ofBytes: number) => void,
): AsyncGenerator<Uint8Array> {
  yield* packedBytes(packedPieces(description, onProgress));
}

/** Packs pieces that are still to be packed. */
export async function* packedBytes(pieces: AsyncIterable<PackedPiece>): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) yield piece instanceof Uint8Array ? piece : packRows(piece);
}

/** Yields the pieces of the file, of which some are still to be packed. */
export async function* packedPieces(
  description: DecoderDescription,
  onProgress: (doneBytes: number, ofBytes: number) => void = () => undefined,
  { places, endOfPacked }: PackedLayout = layOut(description),
): AsyncGenerator<PackedPiece> {
  const header = encodeHeader(description, places);
  let done = aligned(header.byteLength);
  yield header;
  yield paddingOf(header.byteLength);
  for (const tensor of places.keys()) {
    if (done === endOfPacked) return;
    for await (const piece of tensorPieces(tensor)) {
      done += piece.byteLength;
      yield piece;
    }
    onProgress(done, endOfPacked);
  }
}

/** Yields a tensor's weights, scales and bias, each padded to whole units. */
export async function* tensorPieces(tensor: PackedTensor): AsyncGenerator<PackedPiece> {
  const parts = tensor.parts();
  yield* parts.weights();
  yield paddingOf(tensor.weightBytes);
  yield await parts.scales();
  yield paddingOf(tensor.scaleBytes);
  yield await parts.bias();
  yield paddingOf(tensor.biasBytes);
}

function paddingOf(bytes: number): Uint8Array {
  return new Uint8Array(aligned(bytes) - bytes);
}

/** Writes all pieces into memory, one after another. */
export async function fill(memory: Uint8Array, pieces: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  let end = 0;
  for await (const piece of pieces) {
    memory.set(piece, end);
    end += piece.byteLength;
  }
  return memory;
}

/** Rounds up to whole units. */
export function aligned(bytes: number): number {
  return Math.ceil(bytes / UNIT_BYTES) * UNIT_BYTES;
}

// Packed weights of a model, from the cache folder or in memory.

interface PackProgress {
  readonly stage: "building" | "loading";
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Options of `packedWeights`. */
export interface PackOptions {
  /** Text that depends on everything from which the bytes of tensors are made. The description's header is added. */
  readonly key: string | Promise<string>;
  readonly cacheFolder: string;
  /** The model that the weights are of, so that the packed file can be found with it. @default not noted */
  readonly modelPath?: string | undefined;
  readonly onProgress?: ((progress: PackProgress) => void) | undefined;
  /** Called once, with the reason, when the weights cannot be cached and stay in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

/**
 * Returns the packed file's path, and writes the file if the cache has no complete one; its bytes when the cache cannot
 * be written. A new file makes room: the least recently used ones are dropped when the cache exceeds its limit.
 *
 * @throws {ReadMeError} when a tensor cannot be read; `ERR_WRITE_FAILED` without room in cache and memory
 */
export async function packedWeights(
  description: DecoderDescription,
  options: PackOptions,
): Promise<string | Uint8Array> {
  const { cacheFolder, modelPath, onProgress, onCacheFailure } = options;
  const header = encodeHeader(description, layOut(description).places);
  const key = `${await options.key} ${createHash("sha256").update(header).digest("hex")}`;
  let isNew = false;
  const chunks = (): AsyncIterable<Uint8Array> => {
    isNew = true;
    return packedFile(description, (doneBytes, ofBytes) => onProgress?.({ stage: "building", doneBytes, ofBytes }));
  };
  try {
    const note = "packed weights of the kernel";
    const path = await cachedData(cacheFolder, { kind: "kernels", key, note, modelPath, chunks });
    if (isNew) await makeRoom(cacheFolder, basename(dirname(path)));
    return path;
  } catch (error) {
    const reason = messageOf(error);
    const weights = await fill(allocate(layOut(description).numBytes, reason), chunks());
    onCacheFailure?.(reason);
    return weights;
  }
}

/** Keeps the cache below its limit. Never fails: old files that stay harm nothing. */
async function makeRoom(cacheFolder: string, keptKey: string): Promise<void> {
  await trimPacked(packedLimitBytes(), { cacheFolder, keptKey }).catch(() => undefined);
}

function allocate(numBytes: number, reason: string): Uint8Array {
  try {
    return new Uint8Array(numBytes);
  } catch (cause) {
    const message = `The packed model cannot be cached (${reason}), and memory does not hold its ${numBytes} bytes`;
    throw new ReadMeError("ERR_WRITE_FAILED", message, { cause });
  }
}

// Packs rows of a model file by the kernel's own code, in the addon or in WebAssembly.

/** Packs rows into whole panels. @throws {RangeError} when they are no whole blocks */
export type Packer = (rows: RowsToPack) => Uint8Array;

/** Words of `RowsToPack` in `native/pack_rows.h`. */
const REQUEST_WORDS = 8;
const ALIGNMENT = 64;

let packer: Packer | undefined;

/** Packs rows on all threads. @throws {RangeError} when they are no whole blocks */
export function packRows(rows: RowsToPack): Uint8Array {
  packer ??= newPacker();
  return packer(rows);
}

function newPacker(): Packer {
  try {
    return nativePacker(loadAddon(), kernelThreads(undefined));
  } catch {
    return wasmPacker();
  }
}

export function nativePacker(addon: Addon, threads: number): Packer {
  return (rows) => {
    const packed = new Uint8Array(rows.byteLength);
    packNatively(addon, rows, threads, { target: packed, place: 0 });
    return packed;
  };
}

export function wasmPacker(): Packer {
  const { calls } = openModule("wasm-simd");
  const { memory } = calls;
  return ({ format, source, numIn, rows, inputs, scales, byteLength }) => {
    let end = 0;
    const places = [4 * REQUEST_WORDS, rows.byteLength, inputs.byteLength, scales.byteLength, byteLength].map(
      (bytes) => {
        const place = end;
        end += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
        return place;
      },
    );
    const start = calls.allocate(end);
    const [request = 0, rowsAt = 0, inputsAt = 0, scalesAt = 0, packedAt = 0] = places.map((place) => start + place);
    new Uint8Array(memory.buffer, rowsAt).set(rows);
    new Float32Array(memory.buffer, inputsAt, inputs.length).set(inputs);
    const pointers = [rowsAt, inputs.length > 0 ? inputsAt : 0, packedAt, scalesAt];
    new Int32Array(memory.buffer, request, REQUEST_WORDS).set([format, source, numIn, 0, ...pointers]);
    const numBytes = calls.exports.pack_rows(request, rows.byteLength);
    scales.set(new Float32Array(memory.buffer, scalesAt, scales.length));
    const packed = new Uint8Array(memory.buffer, packedAt, byteLength).slice();
    calls.exports.release(start);
    if (numBytes !== byteLength) throw new RangeError("Expected whole rows of blocks");
    return packed;
  };
}
