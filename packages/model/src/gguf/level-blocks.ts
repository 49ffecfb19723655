// Types whose quants are numbers of 16 fixed levels. Groups of 32 values have a scale and 16 bytes of nibbles, which
// hold value i in the low half of byte i and value i + 16 in its high half. Source: kvalues_* and block_* in
// ggml-common.h, dequantize_row_* in ggml-quants.c, and ggml_e8m0_to_fp32_half in ggml-impl.h of llama.cpp.
//
// Values have the same bits as in llama.cpp: a scale, its factor and a level have at most 24 significant bits together.

import { BLOCK_VALUES, f16At } from "./dequantize.ts";

export const IQ4_NL_BLOCK_BYTES = 18;
export const IQ4_XS_BLOCK_BYTES = 136;
export const MXFP4_BLOCK_BYTES = 17;

const NIBBLE_BYTES = BLOCK_VALUES / 2;

/** Levels of IQ4_NL and IQ4_XS. */
const IQ4_LEVELS = Float64Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
/** Levels of MXFP4: twice the numbers of FP4 (E2M1), with 0 for its -0. */
const MXFP4_LEVELS = Float64Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
/** Scales of MXFP4: half of what an E8M0 byte stands for, since levels are doubled. The first two are subnormal. */
const HALF_E8M0_VALUES = new Float32Array(
  Int32Array.from({ length: 256 }, (_, e) => (e < 2 ? 0x20_0000 << e : (e - 1) << 23)).buffer,
);

interface LevelBlock {
  readonly blockBytes: number;
  readonly numGroups: number;
  readonly levels: Float64Array;
  /** Reads the scale of a group of the block at `start`. */
  readonly scaleOf: (bytes: Uint8Array, start: number, group: number) => number;
}

/** Converts whole blocks to their values. */
type Dequantize = (bytes: Uint8Array) => Float32Array;

/** Makes the converter of a type whose nibbles are at the end of a block: value = scale * level. */
function levelDequantizer(block: LevelBlock): Dequantize {
  const { blockBytes, numGroups, levels, scaleOf } = block;
  const nibblesAt = blockBytes - numGroups * NIBBLE_BYTES;
  return (bytes) => {
    const values = new Float32Array((bytes.byteLength / blockBytes) * numGroups * BLOCK_VALUES);
    let at = 0;
    for (let start = 0; start < bytes.byteLength; start += blockBytes) {
      for (let group = 0; group < numGroups; group++, at += BLOCK_VALUES) {
        const scale = scaleOf(bytes, start, group);
        const from = start + nibblesAt + group * NIBBLE_BYTES;
        for (let i = 0; i < NIBBLE_BYTES; i++) {
          const pair = bytes[from + i] ?? 0;
          values[at + i] = scale * (levels[pair & 15] ?? 0);
          values[at + NIBBLE_BYTES + i] = scale * (levels[pair >>> 4] ?? 0);
        }
      }
    }
    return values;
  };
}

/** Converts IQ4_NL: scale, nibbles. */
export const dequantizeIQ4NL: Dequantize = levelDequantizer({
  blockBytes: IQ4_NL_BLOCK_BYTES,
  numGroups: 1,
  levels: IQ4_LEVELS,
  scaleOf: f16At,
});

/**
 * Converts IQ4_XS: scale, upper 2 bits of 8 factors, their lower 4 bits, nibbles;
 * value = scale * (factor - 32) * level.
 */
export const dequantizeIQ4XS: Dequantize = levelDequantizer({
  blockBytes: IQ4_XS_BLOCK_BYTES,
  numGroups: 8,
  levels: IQ4_LEVELS,
  scaleOf: (bytes, start, group) => {
    const upper = ((bytes[start + 2 + (group >>> 2)] ?? 0) >>> (2 * (group & 3))) & 3;
    const lower = ((bytes[start + 4 + (group >>> 1)] ?? 0) >>> (4 * (group & 1))) & 15;
    return f16At(bytes, start) * ((lower | (upper << 4)) - 32);
  },
});

/** Converts MXFP4: a byte that is the scale's exponent, nibbles. */
export const dequantizeMXFP4: Dequantize = levelDequantizer({
  blockBytes: MXFP4_BLOCK_BYTES,
  numGroups: 1,
  levels: MXFP4_LEVELS,
  scaleOf: (bytes, start) => HALF_E8M0_VALUES[bytes[start] ?? 0] ?? 0,
});
