// Packs weights in blocks along their rows, from a GGUF file or fitted, panel by panel and without rounding again.

import type { BlockSource, BlockWeights, TensorRef } from "@readme-moe/model";
import { GROUP, nothing, PANEL, wholeGroups, wholePanels, type PackedTensor } from "./packed-tensor.ts";
import { paddedBias, placeOf, sizes } from "./pack-product.ts";

/** @param source - 4 or 8 bits in blocks of 16, or of a multiple of 32 */
export function packBlocks(source: BlockSource, bias: TensorRef | undefined): PackedTensor {
  const { numOut, numIn, format } = source;
  const block = format.blockSize === 16 ? 16 : GROUP;
  const hasMinimums = format.bits === 4 && format.hasOffsets;
  const quantBytes = (GROUP * PANEL * format.bits) / 8;
  const scaleFloats = (GROUP / block) * PANEL;
  const groupBytes = quantBytes + scaleFloats * 4 * (hasMinimums ? 2 : 1);
  const panelBytes = wholeGroups(numIn) * groupBytes;
  return {
    ...sizes(format.bits === 4 ? "int4-blocks" : "int8-blocks", numOut, numIn, bias),
    block,
    hasMinimums,
    weightBytes: wholePanels(numOut) * panelBytes,
    scaleBytes: 0,
    parts: () => ({
      async *weights() {
        const weights = await source.read();
        const pack = format.bits === 4 ? packNibble : packByte;
        for (let panel = 0; panel < wholePanels(numOut); panel++) {
          const packed = new Uint8Array(panelBytes);
          const floats = new Float32Array(packed.buffer);
          if (format.bits === 8) fillMiddle(packed, groupBytes, quantBytes);
          for (let row = 0; row < Math.min(PANEL, numOut - panel * PANEL); row++) {
            const first = (panel * PANEL + row) * numIn;
            for (let i = 0; i < numIn; i++) {
              const start = Math.floor(i / GROUP) * groupBytes;
              pack(packed, start, i % GROUP, row, weights.quants[first + i] as number);
            }
            for (let from = 0; from < numIn; from += block) {
              const at = (Math.floor(from / GROUP) * groupBytes + quantBytes) / 4;
              const place = at + ((from % GROUP) / block) * PANEL + row;
              const { scale, minimum } = blockAt(weights, first + from);
              floats[place] = scale;
              if (hasMinimums) floats[place + scaleFloats] = minimum;
            }
          }
          yield packed;
        }
      },
      scales: nothing,
      bias: () => paddedBias(bias, numOut),
    }),
  };
}

function blockAt({ blockSize, scales, offsets, hasOffsets }: BlockWeights, index: number) {
  const block = Math.floor(index / blockSize);
  const scale = scales[block] as number;
  // Offsets are relative to the middle of the integers.
  return { scale, minimum: hasOffsets ? (offsets[block] as number) - 8 * scale : 0 };
}

function packByte(packed: Uint8Array, start: number, i: number, row: number, quant: number): void {
  packed[start + placeOf(i, row)] = quant;
}

/** Puts input i into the low half of a byte, and input 16 + i into its high half. */
function packNibble(packed: Uint8Array, start: number, i: number, row: number, quant: number): void {
  const place = start + placeOf(i & 15, row);
  packed[place] = (packed[place] as number) | (i < 16 ? quant : quant << 4);
}

function fillMiddle(packed: Uint8Array, groupBytes: number, quantBytes: number): void {
  for (let start = 0; start < packed.length; start += groupBytes) packed.fill(128, start, start + quantBytes);
}
