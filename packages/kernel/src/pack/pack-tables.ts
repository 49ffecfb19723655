// Tables whose rows are looked up: embeddings and the scales of norms.

import { encodeF16, type NormRef, type TensorRef } from "@readme-moe/model";
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
  const width = Math.ceil(size / PANEL) * PANEL;
  const weightBytes = rows.length * width * 4;
  return packedFloats("float-table", { numOut: rows.length, numIn: width, weightBytes }, async function* () {
    for (const read of rows) {
      const padded = new Float32Array(width);
      padded.set(await read());
      yield bytesOf(padded);
    }
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
