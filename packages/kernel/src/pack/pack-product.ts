// Packs weights of products panel by panel: a vector of the processor holds the same inputs of neighbouring outputs.

import type { LinearRefs, TensorRef } from "@readme-moe/model";
import type { BlockTypeName, ShortType } from "./block-types.ts";
import type { InputFactors } from "./input-factors.ts";
import { GROUP, PANEL, wholeGroups, wholePanels } from "./block-types.ts";
import { bytesOf, nothing, type PackedTensor } from "./packed-tensor.ts";

const LARGEST = 127;
// Below this scale, quotients are not exact enough to stay within a byte.
const SMALLEST = 2 ** -126;
/** Size of four inputs of a panel. */
const QUAD_BYTES = 4 * PANEL;

/** Packs float32 weights, `[panel][numIn][64]`. @param inputs - factors of the inputs, by which weights are divided */
export function packFloat({ weight, bias }: LinearRefs, inputs?: InputFactors): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  return {
    ...sizes("float", numOut, numIn, bias),
    weightBytes: wholePanels(numOut) * PANEL * numIn * 4,
    scaleBytes: 0,
    parts: () => ({
      async *weights() {
        const factors = await inputs?.();
        for await (const { rows, numRows } of panelsOf(weight)) {
          const packed = new Float32Array(numIn * PANEL);
          for (let row = 0; row < numRows; row++) {
            if (factors) divideBy(rows.subarray(row * numIn, (row + 1) * numIn), factors);
            for (let i = 0; i < numIn; i++) packed[i * PANEL + row] = rows[row * numIn + i]!;
          }
          yield bytesOf(packed);
        }
      },
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
export function packInt8({ weight, bias }: LinearRefs, factors: ProductFactors = {}): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  const panelBytes = wholeGroups(numIn) * GROUP * PANEL;
  return {
    ...sizes("int8", numOut, numIn, bias),
    weightBytes: wholePanels(numOut) * panelBytes,
    scaleBytes: wholePanels(numOut) * PANEL * 4,
    parts: () => {
      const scales = new Float32Array(wholePanels(numOut) * PANEL);
      return {
        async *weights() {
          const [inputs, outputs] = [await factors.inputs?.(), await factors.outputs?.()];
          let firstRow = 0;
          for await (const { rows, numRows } of panelsOf(weight)) {
            const packed = new Uint8Array(panelBytes).fill(128);
            const quads = new Uint32Array(packed.buffer);
            for (let row = 0; row < numRows; row++) {
              const values = rows.subarray(row * numIn, (row + 1) * numIn);
              if (inputs) divideBy(values, inputs);
              scales[firstRow + row] = roundRow(values, quads, row) * (outputs?.[firstRow + row] ?? 1);
            }
            firstRow += PANEL;
            yield packed;
          }
        },
        scales: async () => bytesOf(scales),
        bias: () => paddedBias(bias, numOut, factors.outputs),
      };
    },
  };
}

/** Rounds one output's weights into a panel, four at a time. @returns their scale, 0 if all weights are 0 */
function roundRow(values: Float32Array, packed: Uint32Array, row: number): number {
  const scale = Math.fround(largestMagnitude(values) / LARGEST);
  if (scale < SMALLEST) return 0;
  const whole = values.length - (values.length % 4);
  for (let i = 0; i < whole; i += 4) packed[i * (PANEL / 4) + row] = quadOf(values, i, scale);
  if (whole < values.length) {
    const rest = new Float32Array(4);
    rest.set(values.subarray(whole));
    packed[whole * (PANEL / 4) + row] = quadOf(rest, 0, scale);
  }
  return scale;
}

/** Finds the largest magnitude by comparing bits, which have the same order; a NaN is the largest. */
function largestMagnitude(values: Float32Array): number {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const largest = new Int32Array(1);
  let most = 0;
  for (let i = 0; i < bits.length; i++) most = Math.max(most, bits[i]! & 0x7fffffff);
  largest[0] = most;
  return new Float32Array(largest.buffer)[0] as number;
}

/** Rounds four inputs of an output into one word, the first one lowest. */
function quadOf(values: Float32Array, i: number, scale: number): number {
  const low = byteOf(values[i]!, scale) | (byteOf(values[i + 1]!, scale) << 8);
  return low | (byteOf(values[i + 2]!, scale) << 16) | (byteOf(values[i + 3]!, scale) << 24);
}

/** Rounds to the nearest integer and adds 128, which makes it positive. */
function byteOf(value: number, scale: number): number {
  return (value / scale + 128.5) | 0;
}

function divideBy(values: Float32Array, factors: Float32Array): void {
  for (let i = 0; i < values.length; i++) values[i] = values[i]! / factors[i]!;
}

/** Returns the offset of input `i` of a panel's output `row`, with inputs in groups of four. */
export function placeOf(i: number, row: number): number {
  return (i >>> 2) * QUAD_BYTES + row * 4 + (i & 3);
}

/** Reads the rows of a weight in panels; the last one may have fewer rows. */
async function* panelsOf({ store, name, shape }: TensorRef): AsyncGenerator<{ rows: Float32Array; numRows: number }> {
  const [numOut = 0] = shape;
  for (let from = 0; from < numOut; from += PANEL) {
    const to = Math.min(from + PANEL, numOut);
    yield { rows: await store.readFloats(name, { from, to }), numRows: to - from };
  }
}

export function sizes<Format extends "float" | "int8" | BlockTypeName | ShortType>(
  format: Format,
  numOut: number,
  numIn: number,
  bias: TensorRef | undefined,
): Pick<PackedTensor, "numOut" | "numIn" | "biasBytes"> & { readonly format: Format } {
  const biasBytes = bias ? wholePanels(numOut) * PANEL * 4 : 0;
  return { format, numOut, numIn, biasBytes };
}

export async function paddedBias(
  bias: TensorRef | undefined,
  numOut: number,
  factors?: InputFactors,
): Promise<Uint8Array> {
  if (!bias) return nothing();
  const padded = new Float32Array(wholePanels(numOut) * PANEL);
  padded.set(await bias.store.readFloats(bias.name));
  for (const [i, factor] of (await factors?.())?.entries() ?? []) padded[i] = padded[i]! * factor;
  return bytesOf(padded);
}
