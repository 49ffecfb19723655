// Packs weights of products panel by panel: a vector of the processor holds the same inputs of neighbouring outputs.

import { blockLayoutOf, type LinearRefs, type TensorRef } from "@readme-moe/model";
import {
  formatNumber,
  isBlockType,
  isShortType,
  productBytes,
  PANEL,
  wholePanels,
  type BlockTypeName,
  type ProductFormat,
  type ShortType,
} from "./block-types.ts";
import type { InputFactors } from "./input-factors.ts";
import { bytesOf, nothing, type PackedTensor, type RowsToPack } from "./packed-tensor.ts";

/** Size of rows that are read and packed at once. */
const CHUNK_BYTES = 4 << 20;
const NONE = new Float32Array(0);

/** Types whose bits the kernel multiplies with. */
export type FileType = BlockTypeName | ShortType;

/** Returns the type of a file's weights, if the kernel multiplies with their bits. */
export function fileTypeOf({ store, name, shape: [, numIn = 0] }: TensorRef): FileType | undefined {
  const { type } = store.info(name);
  if (isShortType(type)) return type;
  const layout = blockLayoutOf(type);
  return layout && isBlockType(type) && numIn > 0 && numIn % layout.values === 0 ? type : undefined;
}

/** Packs a product's weights in the bits of their file. @param type - see `fileTypeOf` */
export function packFile(refs: LinearRefs, type: FileType): PackedTensor {
  return packUnscaled(refs, type);
}

/** Packs weights in float32. @param inputs - factors of the inputs, by which weights are divided */
export function packFloat(refs: LinearRefs, inputs?: InputFactors): PackedTensor {
  return packUnscaled(refs, "float", inputs);
}

function packUnscaled({ weight, bias }: LinearRefs, format: FileType | "float", inputs?: InputFactors): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  return {
    ...sizes(format, numOut, numIn, bias),
    scaleBytes: 0,
    stored: format === "float" || bias ? undefined : weight,
    parts: () => ({
      weights: () => rowsToPack(weight, format, { inputs, scales: NONE }),
      scales: nothing,
      bias: () => paddedBias(bias, numOut),
    }),
  };
}

/** Factors that move between a product and its neighbours; see `inputFactors`. */
export interface ProductFactors {
  /** Factors of the product's inputs, by which its weights are divided. */
  readonly inputs?: InputFactors | undefined;
  /** Factors by which the product's outputs are multiplied. */
  readonly outputs?: InputFactors | undefined;
}

/** Packs int8 weights with one scale per output: the largest magnitude of a row becomes 127. */
export function packInt8({ weight, bias }: LinearRefs, { inputs, outputs }: ProductFactors = {}): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  return {
    ...sizes("int8", numOut, numIn, bias),
    scaleBytes: wholePanels(numOut) * PANEL * 4,
    parts: () => {
      const scales = new Float32Array(wholePanels(numOut) * PANEL);
      return {
        weights: () => rowsToPack(weight, "int8", { inputs, scales: scales.subarray(0, numOut) }),
        scales: () => multiplied(scales, outputs),
        bias: () => paddedBias(bias, numOut, outputs),
      };
    },
  };
}

/** Yields rows that the kernel packs: as the file has them, or in float32 if it cannot read their type. */
async function* rowsToPack(
  weight: TensorRef,
  format: ProductFormat,
  { inputs, scales }: { readonly inputs: InputFactors | undefined; readonly scales: Float32Array },
): AsyncGenerator<RowsToPack> {
  const {
    store,
    name,
    shape: [numOut = 0, numIn = 0],
  } = weight;
  const { type, byteLength } = store.info(name);
  const source = fileTypeOf(weight) ?? "float";
  const isDecoded = source !== type && type !== "F32";
  const rowBytes = isDecoded ? 4 * numIn : byteLength / numOut;
  const numRows = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes / PANEL)) * PANEL;
  const read = async (from: number): Promise<Uint8Array> => {
    const range = { from, to: Math.min(from + numRows, numOut) };
    return isDecoded ? bytesOf(await store.readFloats(name, range)) : store.readBytes(name, range);
  };
  const numbers = { format: formatNumber(format), source: formatNumber(source), numIn };
  const factors = (await inputs?.()) ?? NONE;
  // The next rows are read while the kernel packs the last ones.
  let next = read(0);
  for (let from = 0; from < numOut; from += numRows) {
    const rows = await next;
    const to = Math.min(from + numRows, numOut);
    if (to < numOut) next = read(to);
    // A failure is thrown when the rows are needed.
    next.catch(() => undefined);
    const ownScales = scales.subarray(from, to);
    yield { ...numbers, rows, inputs: factors, scales: ownScales, byteLength: productBytes(format, to - from, numIn) };
  }
}

export function sizes<Format extends ProductFormat>(
  format: Format,
  numOut: number,
  numIn: number,
  bias: TensorRef | undefined,
): Pick<PackedTensor, "numOut" | "numIn" | "weightBytes" | "biasBytes"> & { readonly format: Format } {
  const biasBytes = bias ? wholePanels(numOut) * PANEL * 4 : 0;
  return { format, numOut, numIn, weightBytes: productBytes(format, numOut, numIn), biasBytes };
}

export async function paddedBias(
  bias: TensorRef | undefined,
  numOut: number,
  factors?: InputFactors,
): Promise<Uint8Array> {
  if (!bias) return nothing();
  const padded = new Float32Array(wholePanels(numOut) * PANEL);
  padded.set(await bias.store.readFloats(bias.name));
  return multiplied(padded, factors);
}

/** Multiplies outputs by their factors, of which whole panels have more. */
async function multiplied(outputs: Float32Array, factors: InputFactors | undefined): Promise<Uint8Array> {
  const each = await factors?.();
  return bytesOf(each ? outputs.map((output, i) => output * (each[i] ?? 1)) : outputs);
}
