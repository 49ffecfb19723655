// Packs blocks that are no rows of a file: those of ONNX graphs, and fitted ones.

import type { BlockSource, BlockWeights, TensorRef } from "@readme-moe/model";
import { GROUP, PANEL, wholeGroups, wholePanels, type BlockTypeName } from "./block-types.ts";
import { paddedBias, sizes } from "./pack-product.ts";
import { nothing, type PackedTensor } from "./packed-tensor.ts";

/** @param source - 4 or 8 bits in blocks of 16, or of a multiple of 32 */
export function packBlocks(source: BlockSource, bias: TensorRef | undefined): PackedTensor {
  const { numOut, numIn, format } = source;
  const block = format.blockSize === 16 ? 16 : 32;
  const hasMinimums = format.bits === 4 && format.hasOffsets;
  const quantBytes = (GROUP * PANEL * format.bits) / 8;
  const scaleFloats = (GROUP / block) * PANEL;
  const groupBytes = quantBytes + scaleFloats * 4 * (hasMinimums ? 2 : 1);
  const panelBytes = wholeGroups(numIn) * groupBytes;
  return {
    ...sizes(nameOf(format.bits, block, hasMinimums), numOut, numIn, bias),
    scaleBytes: 0,
    parts: () => ({
      async *weights() {
        const weights = await source.read();
        for (let panel = 0; panel < wholePanels(numOut); panel++) {
          const packed = new Uint8Array(panelBytes);
          const floats = new Float32Array(packed.buffer);
          if (format.bits === 8) fillMiddle(packed, groupBytes, quantBytes);
          for (let row = 0; row < Math.min(PANEL, numOut - panel * PANEL); row++) {
            const first = (panel * PANEL + row) * numIn;
            for (let i = 0; i < numIn; i++) {
              const start = Math.floor(i / GROUP) * groupBytes;
              const quant = weights.quants[first + i]!;
              if (format.bits === 4) packNibble(packed, start + placeOf(i & 15, row), quant, i & 16);
              else packed[start + placeOf(i % GROUP, row)] = quant;
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

function nameOf(bits: 4 | 8, block: 16 | 32, hasMinimums: boolean): BlockTypeName {
  if (bits === 8) return block === 16 ? "INT8_16" : "INT8_32";
  if (hasMinimums) return block === 16 ? "INT4_MINIMUM_16" : "INT4_MINIMUM_32";
  return block === 16 ? "INT4_16" : "INT4_32";
}

function blockAt({ blockSize, scales, offsets, hasOffsets }: BlockWeights, index: number) {
  const block = Math.floor(index / blockSize);
  const scale = scales[block]!;
  // Offsets are relative to the middle of the integers.
  return { scale, minimum: hasOffsets ? offsets[block]! - 8 * scale : 0 };
}

/** Returns the offset of input `i` of a panel's output `row`, with inputs in groups of four. */
function placeOf(i: number, row: number): number {
  return (i >>> 2) * 4 * PANEL + row * 4 + (i & 3);
}

/** Puts inputs 0 to 15 of a group into the low halves of bytes, and inputs 16 to 31 into the high ones. */
function packNibble(packed: Uint8Array, place: number, quant: number, isHigh: number): void {
  packed[place] = packed[place]! | (isHigh ? quant << 4 : quant);
}

function fillMiddle(packed: Uint8Array, groupBytes: number, quantBytes: number): void {
  for (let start = 0; start < packed.length; start += groupBytes) packed.fill(128, start, start + quantBytes);
}
