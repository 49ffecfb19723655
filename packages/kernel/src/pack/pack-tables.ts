// Tables that are looked up, not multiplied: embeddings and the scales of norms.

import { encodeF16, type TensorRef } from "@readme-moe/model";
import type { InputFactors } from "./input-factors.ts";
import { bytesOf, nothing, PANEL, type PackedTensor } from "./packed-tensor.ts";

// Rows that are read at a time: some megabytes of a large embedding.
const ROWS = 1024;

/** Rows `[numOut, numIn]` as they are, in float32 or in halves. */
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
 * The scales of a norm, one row up to a whole panel.
 *
 * @param offset - added to each: 1 where a family stores what it adds to 1
 * @param factors - what its outputs are wanted multiplied by
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
  return { format, numOut, numIn, block: 32, hasMinimums: false, scaleBytes: 0, biasBytes: 0 } as const;
}
