// Tables whose rows are looked up: embeddings and the scales of norms.

import { encodeF16, type NormRef, type RecurrenceConfig, type RecurrenceRefs, type TensorRef } from "@readme-moe/model";
import type { InputFactors } from "./pack-product.ts";
import { bytesOf, nothing, type PackedTensor, PANEL } from "./block-types.ts";

// Rows read at a time: some megabytes of a large embedding.
const ROWS = 1024;

/** Packs rows `[numOut, numIn]` in float32 or in half precision. */
export function packTable(ref: TensorRef, format: "float-table" | "half-table"): PackedTensor {
  const [numOut = 0, numIn = 0] = ref.shape;
  const isHalf = format === "half-table";
  return {
    ...plain(format, numOut, numIn),
    weightBytes: numOut * numIn * (isHalf ? 2 : 4),
    parts: () => ({
      async *weights() {
        for (let from = 0; from < numOut; from += ROWS) {
          const values = await ref.store.readFloats(ref.name, { from, to: Math.min(from + ROWS, numOut) });
          yield isHalf ? encodeF16(values) : bytesOf(values);
        }
      },
      scales: nothing,
      bias: nothing,
    }),
  };
}

/**
 * Packs the scales of a norm, one row padded to whole panels.
 *
 * @param offset - added to each scale: 1 for families that store differences from 1
 * @param factors - multiply the norm's outputs
 */
export function packNorm(ref: TensorRef, offset = 0, factors?: InputFactors): PackedTensor {
  return packNormRows(ref, [
    async () => {
      const values = await ref.store.readFloats(ref.name);
      const multiply = await factors?.();
      return values.map((value, i) => (value + offset) * (multiply?.[i] ?? 1));
    },
  ]);
}

/** Packs a layer norm: its scales and its biases, 0 without any. */
export function packLayerNorm({ bias, ...ref }: NormRef): PackedTensor {
  return packNormRows(ref, [
    () => ref.store.readFloats(ref.name),
    async () => (bias ? bias.store.readFloats(bias.name) : new Float32Array()),
  ]);
}

function packNormRows({ shape: [size = 0] }: TensorRef, rows: readonly (() => Promise<Float32Array>)[]): PackedTensor {
  return packRows(panelWidth(size), rows.length, async () => Promise.all(rows.map((read) => read())));
}

/** Returns the width of a row of numbers that the kernel reads in whole panels. */
export function panelWidth(size: number): number {
  return Math.ceil(size / PANEL) * PANEL;
}

/** Packs a few rows of up to `width` numbers. */
function packRows(width: number, numRows: number, read: () => Promise<readonly Float32Array[]>): PackedTensor {
  const weightBytes = numRows * width * 4;
  return packedFloats("float-table", { numOut: numRows, numIn: width, weightBytes }, async function* () {
    for (const row of await read()) {
      const padded = new Float32Array(width);
      padded.set(row);
      yield bytesOf(padded);
    }
  });
}

/** Packs a recurrence's convolution: a row for each position, the oldest first, and one of biases if it has any. */
export function packConvolution(
  { convolution, convolutionBias, firstChannels }: RecurrenceRefs,
  { kind, numTaps }: RecurrenceConfig,
  sizes: readonly [query: number, key: number, value: number],
): PackedTensor {
  // A short convolution has one channel for each product of a key and a value.
  const parts = firstChannels
    .map((first, part) => ({ first, size: sizes[part]! }))
    .slice(0, kind === "convolution" ? 1 : 3);
  const width = parts.reduce((sum, { size }) => sum + panelWidth(size), 0);
  return packRows(width, numTaps + (convolutionBias ? 1 : 0), async () => {
    const weights = await convolution.store.readFloats(convolution.name);
    const biases = await convolutionBias?.store.readFloats(convolutionBias.name);
    return Array.from({ length: numTaps + (biases ? 1 : 0) }, (_, tap) => {
      const row = new Float32Array(width);
      let at = 0;
      for (const { first, size } of parts) {
        for (let i = 0; i < size; i++)
          row[at + i] = (tap < numTaps ? weights[(first + i) * numTaps + tap] : biases?.[first + i])!;
        at += panelWidth(size);
      }
      return row;
    });
  });
}

/** Packs what a recurrence has for each head: rates, biases and skips; `undefined` when it has none. */
export function packRates({ rates, rateBiases, skips }: RecurrenceRefs): PackedTensor | undefined {
  if (!rates || !rateBiases) return undefined;
  return packRows(panelWidth(rates.shape[0] ?? 0), 3, async () => {
    const logarithms = await rates.store.readFloats(rates.name);
    const biases = await rateBiases.store.readFloats(rateBiases.name);
    const ofValues = await skips?.store.readFloats(skips.name);
    return [logarithms.map((x) => -Math.exp(x)), biases, ofValues ?? new Float32Array()];
  });
}

function plain(format: "float-table" | "half-table", numOut: number, numIn: number) {
  return { format, numOut, numIn, scaleBytes: 0, biasBytes: 0 } as const;
}

/** Describes a tensor of floats that is made, not read. */
export function packedFloats(
  format: "float-table" | "float",
  sizes: Pick<PackedTensor, "numOut" | "numIn" | "weightBytes">,
  weights: () => AsyncIterable<Uint8Array>,
): PackedTensor {
  return {
    format,
    ...sizes,
    scaleBytes: 0,
    biasBytes: 0,
    parts: () => ({ weights, scales: nothing, bias: nothing }),
  };
}
