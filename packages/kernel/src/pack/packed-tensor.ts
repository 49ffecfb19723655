// One tensor of the packed file. The formats are those of `native/tensor.h`.

/** Outputs are stored in panels of 64, inputs in groups of 32, both padded with zeros. */
export const PANEL = 64;
export const GROUP = 32;

/** Layout of a tensor in the packed file, as described in `native/tensor.h`. */
export type TensorFormat = "float-table" | "half-table" | "float" | "int8" | "int8-blocks" | "int4-blocks";

/** A tensor of the packed file, whose bytes are made when the file is written. */
export interface PackedTensor {
  readonly format: TensorFormat;
  readonly numOut: number;
  readonly numIn: number;
  /** Number of inputs that share a scale, 16 or 32. */
  readonly block: number;
  readonly hasMinimums: boolean;
  /** Size of the weights. */
  readonly weightBytes: number;
  /** Size of one scale per output, 0 without scales. */
  readonly scaleBytes: number;
  /** Size of one bias per output, 0 without bias. */
  readonly biasBytes: number;
  /** Yields weights in pieces, together `weightBytes`; then scales; then the bias. */
  parts(): PackedParts;
}

interface PackedParts {
  weights(): AsyncIterable<Uint8Array>;
  /** Reads one scale per output; called after all weights. */
  scales(): Promise<Uint8Array>;
  bias(): Promise<Uint8Array>;
}

export function wholePanels(numOut: number): number {
  return Math.ceil(numOut / PANEL);
}

export function wholeGroups(numIn: number): number {
  return Math.ceil(numIn / GROUP);
}

/** Returns the bytes of typed numbers, without a copy. */
export function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Reads a part that the tensor does not have: no bytes. */
export async function nothing(): Promise<Uint8Array> {
  return new Uint8Array(0);
}
