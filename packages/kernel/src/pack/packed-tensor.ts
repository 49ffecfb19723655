// Tensors of the packed file. `native/tensor.h` has the same formats.

/** Outputs per panel and inputs per group; incomplete ones are padded with zeros. */
export const PANEL = 64;
export const GROUP = 32;

/** Layout of a tensor, see `native/tensor.h`. */
export type TensorFormat = "float-table" | "half-table" | "float" | "int8" | "int8-blocks" | "int4-blocks";

/** Tensor of a packed file, whose bytes are made when the file is written. */
export interface PackedTensor {
  readonly format: TensorFormat;
  readonly numOut: number;
  readonly numIn: number;
  /** Number of inputs that share a scale, 16 or 32. */
  readonly block: number;
  readonly hasMinimums: boolean;
  /** Size of the weights, in bytes. */
  readonly weightBytes: number;
  /** Size of one scale per output, 0 without scales. */
  readonly scaleBytes: number;
  /** Size of one bias per output, 0 without a bias. */
  readonly biasBytes: number;
  /** Starts reading the tensor: weights first, in pieces of `weightBytes` together, then scales, then the bias. */
  parts(): PackedParts;
}

interface PackedParts {
  weights(): AsyncIterable<Uint8Array>;
  /** Reads one scale per output; called after all weights have been read. */
  scales(): Promise<Uint8Array>;
  bias(): Promise<Uint8Array>;
}

export function wholePanels(numOut: number): number {
  return Math.ceil(numOut / PANEL);
}

export function wholeGroups(numIn: number): number {
  return Math.ceil(numIn / GROUP);
}

/** Makes a view of typed numbers as bytes. */
export function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Reads a part that a tensor does not have. */
export async function nothing(): Promise<Uint8Array> {
  return new Uint8Array(0);
}
