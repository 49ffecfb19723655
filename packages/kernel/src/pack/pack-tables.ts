// Tables whose rows are looked up: embeddings and the scales of norms.

import { encodeF16, type TensorRef } from "@readme-moe/model";
import type { InputFactors } from "./pack-product.ts";
import { bytesOf, nothing, type PackedTensor, PANEL, wholePanels } from "./block-types.ts";

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

// A product that changes nothing, packed without a file.

/** Makes a product that copies each input to the output of the same number; further outputs are 0. */
export function packIdentity(numOut: number, numIn: number): PackedTensor {
  const weightBytes = wholePanels(numOut) * PANEL * numIn * 4;
  return packedFloats("float", { numOut, numIn, weightBytes }, async function* () {
    for (let panel = 0; panel < wholePanels(numOut); panel++) {
      const packed = new Float32Array(numIn * PANEL);
      for (let i = panel * PANEL; i < Math.min(numIn, (panel + 1) * PANEL); i++) packed[i * PANEL + (i % PANEL)] = 1;
      yield bytesOf(packed);
    }
  });
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
