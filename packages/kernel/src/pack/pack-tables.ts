// Tables whose rows are looked up: embeddings and the scales of norms.

import { encodeF16, type TensorRef } from "@readme-moe/model";
import type { InputFactors } from "./input-factors.ts";
import { PANEL } from "./block-types.ts";
import { bytesOf, nothing, type PackedTensor } from "./packed-tensor.ts";

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
  const [size = 0] = ref.shape;
  const width = Math.ceil(size / PANEL) * PANEL;
  return {
    ...plain("float-table", 1, width),
    weightBytes: width * 4,
    parts: () => ({
      async *weights() {
        const values = await ref.store.readFloats(ref.name);
        const multiply = await factors?.();
        const padded = new Float32Array(width);
        padded.set(values.map((value, i) => (value + offset) * (multiply?.[i] ?? 1)));
        yield bytesOf(padded);
      },
      scales: nothing,
      bias: nothing,
    }),
  };
}

function plain(format: "float-table" | "half-table", numOut: number, numIn: number) {
  return { format, numOut, numIn, scaleBytes: 0, biasBytes: 0 } as const;
}
