import { f16BitsOf } from "../../../packages/model/src/files/floats.ts";
import { BLOCK_VALUES, Q8_0_BLOCK_BYTES } from "../../../packages/model/src/gguf/ggml-types.ts";

const MAX_Q8 = 127;
const MAX_F16 = 65504;

/**
 * Quantises to Q8_0 as llama.cpp's `quantize_row_q8_0_ref` does, to the bit: scale = max|x| / 127, kept as F16;
 * q = x / scale, with the scale before that rounding, to the nearest integer, halves away from zero.
 *
 * @param values - whole blocks of 32
 * @throws {RangeError} when a value is not finite, or too large for a scale in F16
 */
export function quantizeQ8(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array((values.length / BLOCK_VALUES) * Q8_0_BLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  const scaleAsFloat = new Float32Array(1);
  const scaleAsBits = new Int32Array(scaleAsFloat.buffer);
  let at = 0;
  for (let start = 0; start < values.length; start += BLOCK_VALUES) {
    const largest = largestMagnitude(values, start);
    // All in float32, as in llama.cpp.
    const scale = Math.fround(largest / MAX_Q8);
    if (!(scale <= MAX_F16)) {
      throw new RangeError(
        `Expected finite values up to ${MAX_F16 * MAX_Q8} for Q8_0, got a block up to \`${largest}\` (number)`,
      );
    }
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    scaleAsFloat[0] = scale;
    view.setUint16(at, f16BitsOf(scaleAsBits[0] ?? 0), true);
    for (let i = 0; i < BLOCK_VALUES; i++) {
      const quotient = Math.fround((values[start + i] ?? 0) * inverse);
      const rounded = quotient < 0 ? -Math.floor(0.5 - quotient) : Math.floor(quotient + 0.5);
      // The inverse of a subnormal scale is infinite; such a scale is 0 in F16, so any q means 0.
      view.setInt8(at + 2 + i, Math.max(-MAX_Q8, Math.min(MAX_Q8, rounded)));
    }
    at += Q8_0_BLOCK_BYTES;
  }
  return bytes;
}

/** @returns NaN when any of the block's values is */
function largestMagnitude(values: Float32Array, start: number): number {
  let largest = 0;
  for (let i = start; i < start + BLOCK_VALUES; i++) largest = Math.max(largest, Math.abs(values[i] ?? 0));
  return largest;
}
