// One tensor of the packed file.

import type { TensorRef } from "@readme-moe/model";
import type { TensorFormat } from "./block-types.ts";

/** A tensor of the packed file, whose bytes are made when the file is written. */
export interface PackedTensor {
  readonly format: TensorFormat;
  readonly numOut: number;
  readonly numIn: number;
  /** Size of the weights. */
  readonly weightBytes: number;
  /** Size of one scale per output, 0 without scales. */
  readonly scaleBytes: number;
  /** Size of one bias per output, 0 without bias. */
  readonly biasBytes: number;
  /** Rows of a file in the tensor's format, which are all that is packed. @default the tensor is made otherwise */
  readonly stored?: TensorRef | undefined;
  /** Yields weights in pieces, together `weightBytes`; then scales; then the bias. */
  parts(): PackedParts;
}

/** Rows of a model file, which the kernel packs. */
export interface RowsToPack {
  /** Numbers of the format in the packed file, and of the one that has the numbers of `rows`. */
  readonly format: number;
  readonly source: number;
  readonly numIn: number;
  /** Whole rows, as the file has them. */
  readonly rows: Uint8Array;
  /** Factors of inputs, by which floats are divided; empty for none. */
  readonly inputs: Float32Array;
  /** Gets a scale for each row in int8, and is empty otherwise. */
  readonly scales: Float32Array;
  /** Size of the packed rows, in whole panels. */
  readonly byteLength: number;
}

/** A piece of the packed file. */
export type PackedPiece = Uint8Array | RowsToPack;

interface PackedParts {
  weights(): AsyncIterable<PackedPiece>;
  /** Reads one scale per output; called after all weights are packed. */
  scales(): Promise<Uint8Array>;
  bias(): Promise<Uint8Array>;
}

/** Returns the bytes of typed numbers, without a copy. */
export function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Reads a part that the tensor does not have: no bytes. */
export async function nothing(): Promise<Uint8Array> {
  return new Uint8Array(0);
}
