// Weights of products, packed panel by panel: a vector of the processor holds the same inputs of neighbouring outputs.

import type { LinearRefs, TensorRef } from "@readme-moe/model";
import { bytesOf, GROUP, nothing, PANEL, wholeGroups, wholePanels, type PackedTensor } from "./packed-tensor.ts";

const LARGEST = 127;
/** Bytes of four inputs of a panel. */
const QUAD_BYTES = 4 * PANEL;

/** float32 weights, `[panel][numIn][64]`. */
export function packFloat({ weight, bias }: LinearRefs): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  return {
    ...sizes("float", numOut, numIn, bias),
    weightBytes: wholePanels(numOut) * PANEL * numIn * 4,
    scaleBytes: 0,
    parts: () => ({
      async *weights() {
        for await (const { rows, numRows } of panelsOf(weight)) {
          const packed = new Float32Array(numIn * PANEL);
          for (let row = 0; row < numRows; row++) {
            for (let i = 0; i < numIn; i++) packed[i * PANEL + row] = rows[row * numIn + i] as number;
          }
          yield bytesOf(packed);
        }
      },
      scales: nothing,
      bias: () => paddedBias(bias, numOut),
    }),
  };
}

/** int8 weights with one scale per output: the largest magnitude of a row becomes 127. */
export function packInt8({ weight, bias }: LinearRefs): PackedTensor {
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
          let firstRow = 0;
          for await (const { rows, numRows } of panelsOf(weight)) {
            const packed = new Uint8Array(panelBytes).fill(128);
            for (let row = 0; row < numRows; row++) {
              const values = rows.subarray(row * numIn, (row + 1) * numIn);
              scales[firstRow + row] = roundRow(values, packed, row);
            }
            firstRow += PANEL;
            yield packed;
          }
        },
        scales: async () => bytesOf(scales),
        bias: () => paddedBias(bias, numOut),
      };
    },
  };
}

/** Rounds one output's weights into its places of a panel. @returns their scale */
function roundRow(values: Float32Array, packed: Uint8Array, row: number): number {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i] as number));
  const scale = Math.fround(largest / LARGEST);
  if (scale === 0) return 0;
  for (let i = 0; i < values.length; i++) {
    packed[placeOf(i, row)] = 128 + Math.min(LARGEST, Math.max(-LARGEST, Math.round((values[i] as number) / scale)));
  }
  return scale;
}

/** Byte of input `i` of a panel's output `row`, where inputs come in fours. */
export function placeOf(i: number, row: number): number {
  return (i >>> 2) * QUAD_BYTES + row * 4 + (i & 3);
}

/** Rows of a weight in panels; the last one may have fewer. */
async function* panelsOf({ store, name, shape }: TensorRef): AsyncGenerator<{ rows: Float32Array; numRows: number }> {
  const [numOut = 0] = shape;
  for (let from = 0; from < numOut; from += PANEL) {
    const to = Math.min(from + PANEL, numOut);
    yield { rows: await store.readFloats(name, { from, to }), numRows: to - from };
  }
}

export function sizes<Format extends "float" | "int8" | "int8-blocks" | "int4-blocks">(
  format: Format,
  numOut: number,
  numIn: number,
  bias: TensorRef | undefined,
): Pick<PackedTensor, "numOut" | "numIn" | "block" | "hasMinimums" | "biasBytes"> & { readonly format: Format } {
  const biasBytes = bias ? wholePanels(numOut) * PANEL * 4 : 0;
  return { format, numOut, numIn, block: 32, hasMinimums: false, biasBytes };
}

export async function paddedBias(bias: TensorRef | undefined, numOut: number): Promise<Uint8Array> {
  if (!bias) return nothing();
  const padded = new Float32Array(wholePanels(numOut) * PANEL);
  padded.set(await bias.store.readFloats(bias.name));
  return bytesOf(padded);
}
