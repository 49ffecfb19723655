// Packs weights without rounding again: a file's own blocks and numbers of 16 bits, and fitted blocks.

import { blockLayoutOf, type BlockSource, type BlockWeights, type LinearRefs, type TensorRef } from "@readme-moe/model";
import {
  blockBytes,
  formatNumber,
  isBlockType,
  isShortType,
  type BlockTypeName,
  type ShortType,
  GROUP,
  PANEL,
  wholeGroups,
  wholePanels,
} from "./block-types.ts";
import { nothing, type PackedTensor, type RowsToPack } from "./packed-tensor.ts";
import { paddedBias, placeOf, sizes } from "./pack-product.ts";

/** Size of rows that are read and packed at once. */
const CHUNK_BYTES = 4 << 20;

/** Types whose bits the kernel multiplies with. */
export type FileType = BlockTypeName | ShortType;

/** Returns the type of a file's weights, if the kernel multiplies with their bits. */
export function fileTypeOf({ store, name, shape: [, numIn = 0] }: TensorRef): FileType | undefined {
  const { type } = store.info(name);
  if (isShortType(type)) return type;
  const layout = blockLayoutOf(type);
  return layout && isBlockType(type) && numIn > 0 && numIn % layout.values === 0 ? type : undefined;
}

/** Packs a product's weights in the bits of their file. @param type - see `fileTypeOf` */
export function packFile({ weight, bias }: LinearRefs, type: FileType): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  const rowBytes = weight.store.info(weight.name).byteLength / numOut;
  const numRows = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes / PANEL)) * PANEL;
  const read = (from: number): Promise<Uint8Array> =>
    weight.store.readBytes(weight.name, { from, to: Math.min(from + numRows, numOut) });
  return {
    ...sizes(type, numOut, numIn, bias),
    weightBytes: blockBytes(type, numOut, numIn),
    scaleBytes: 0,
    parts: () => ({
      async *weights(): AsyncGenerator<RowsToPack> {
        // The next rows are read while the kernel packs the last ones.
        let next = read(0);
        for (let from = 0; from < numOut; from += numRows) {
          const rows = await next;
          if (from + numRows < numOut) next = read(from + numRows);
          // A failure is thrown when the rows are needed.
          next.catch(() => undefined);
          const byteLength = blockBytes(type, Math.min(numRows, numOut - from), numIn);
          yield { format: formatNumber(type), numIn, rows, byteLength };
        }
      },
      scales: nothing,
      bias: () => paddedBias(bias, numOut),
    }),
  };
}

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
    weightBytes: wholePanels(numOut) * panelBytes,
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

/** Puts inputs 0 to 15 of a group into the low halves of bytes, and inputs 16 to 31 into the high ones. */
function packNibble(packed: Uint8Array, place: number, quant: number, isHigh: number): void {
  packed[place] = packed[place]! | (isHigh ? quant << 4 : quant);
}

function fillMiddle(packed: Uint8Array, groupBytes: number, quantBytes: number): void {
  for (let start = 0; start < packed.length; start += groupBytes) packed.fill(128, start, start + quantBytes);
}
