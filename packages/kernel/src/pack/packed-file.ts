// The packed file: a description, then tensors, each at a multiple of 64 bytes.

import {
  encodeHeader,
  expertsOf,
  headerBytes,
  tensorsOf,
  type DecoderDescription,
  type TensorPlace,
} from "../description.ts";
import { packRows } from "./pack-rows.ts";
import type { PackedPiece, PackedTensor } from "./packed-tensor.ts";

/** Alignment of every part of a tensor in the file. */
export const UNIT_BYTES = 64;

/** Places of all tensors in the file, and its length. */
export interface PackedLayout {
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
  let done = 0;
  const padding = (): Uint8Array => {
    const bytes = new Uint8Array(aligned(done) - done);
    done += bytes.byteLength;
    return bytes;
  };
  const counted = <Piece extends PackedPiece>(piece: Piece): Piece => {
    done += piece.byteLength;
    return piece;
  };
  yield counted(encodeHeader(description, places));
  yield padding();
  for (const tensor of places.keys()) {
    if (done === endOfPacked) return;
    const parts = tensor.parts();
    for await (const piece of parts.weights()) yield counted(piece);
    yield padding();
    yield counted(await parts.scales());
    yield padding();
    yield counted(await parts.bias());
    yield padding();
    onProgress(done, endOfPacked);
  }
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
