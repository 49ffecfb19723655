// A product that changes nothing, packed without a file.

import { PANEL, wholePanels } from "./block-types.ts";
import { bytesOf, nothing, type PackedTensor } from "./packed-tensor.ts";

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
