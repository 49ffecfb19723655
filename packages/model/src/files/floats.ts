// Floating-point formats of checkpoints. Node 20 has no Float16Array. Bytes are little-endian, as is every platform
// that the kernel is built for, so typed arrays read them directly.

const F32_EXPONENT_MASK = 0x7f80_0000;

/** Float32 bit pattern of each F16 bit pattern, as integers, since moving a NaN as a number may change its bits. */
const F32_BITS_OF_F16: Int32Array = Int32Array.from({ length: 0x1_0000 }, (_, bits) => {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0x1f) return sign | F32_EXPONENT_MASK | (mantissa << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (mantissa === 0) return sign;
  // Subnormal, `mantissa * 2^-24`: shift its first one up to where float32 implies it.
  const shift = Math.clz32(mantissa) - 21;
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
});

/** Value of each F16 bit pattern. */
export const F16_VALUES: Float32Array = new Float32Array(F32_BITS_OF_F16.buffer);

/** @param bytes - F16 values, at any alignment; a whole number of them */
export function decodeF16(bytes: Uint8Array): Float32Array {
  const halves = new Uint16Array(aligned(bytes, 2), alignedOffset(bytes, 2), bytes.byteLength / 2);
  const bits = new Int32Array(halves.length);
  for (let i = 0; i < bits.length; i++) bits[i] = F32_BITS_OF_F16[halves[i] ?? 0] ?? 0;
  return new Float32Array(bits.buffer);
}

/** @param bytes - BF16 values, at any alignment; a whole number of them */
export function decodeBf16(bytes: Uint8Array): Float32Array {
  const halves = new Uint16Array(aligned(bytes, 2), alignedOffset(bytes, 2), bytes.byteLength / 2);
  const bits = new Int32Array(halves.length);
  for (let i = 0; i < bits.length; i++) bits[i] = (halves[i] ?? 0) << 16;
  return new Float32Array(bits.buffer);
}

/** @returns the values of `bytes`, in the same memory where its alignment allows */
export function decodeF32(bytes: Uint8Array): Float32Array {
  return new Float32Array(aligned(bytes, 4), alignedOffset(bytes, 4), bytes.byteLength / 4);
}

/** @returns the values of `bytes`, each rounded to the nearest float32 */
export function decodeF64(bytes: Uint8Array): Float32Array {
  return new Float32Array(new Float64Array(aligned(bytes, 8), alignedOffset(bytes, 8), bytes.byteLength / 8));
}

/** Rounds to the nearest F16, ties to even; values beyond F16's range become infinite. */
export function encodeF16(values: Float32Array): Uint8Array {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) halves[i] = f16BitsOf(bits[i] ?? 0);
  return new Uint8Array(halves.buffer);
}

/** Rounds to the nearest BF16, ties to even. */
export function encodeBf16(values: Float32Array): Uint8Array {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i] ?? 0;
    // A NaN must not be rounded: its low bits may carry into infinity. The quiet bit keeps it a NaN.
    const isNan = (word & 0x7fff_ffff) > F32_EXPONENT_MASK;
    halves[i] = isNan ? (word >>> 16) | keptNan(word >>> 16, 0x7f) : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(halves.buffer);
}

/** Returns the F16 bit pattern nearest to a float32 bit pattern, ties to even. */
export function f16BitsOf(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fff_ffff;
  if (magnitude > F32_EXPONENT_MASK)
    return sign | 0x7c00 | ((magnitude >>> 13) & 0x3ff) | keptNan(magnitude >>> 13, 0x3ff);
  // 65520 and more, which is halfway between the largest F16 and the next power of two.
  if (magnitude >= 0x477f_f000) return sign | 0x7c00;
  if (magnitude >= 0x3880_0000) {
    const rebased = magnitude - 0x3800_0000;
    return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
  }
  // At most 2^-25, half of the smallest F16; the tie goes to zero, which is even.
  if (magnitude <= 0x3300_0000) return sign;
  const shift = 126 - (magnitude >>> 23);
  const mantissa = (magnitude & 0x7f_ffff) | 0x80_0000;
  return sign | ((mantissa + (1 << (shift - 1)) - 1 + ((mantissa >>> shift) & 1)) >>> shift);
}

/** Returns the bit that keeps a NaN a NaN when the kept half of its mantissa is zero. */
function keptNan(half: number, mantissaMask: number): number {
  return (half & mantissaMask) === 0 ? (mantissaMask + 1) >>> 1 : 0;
}

function aligned(bytes: Uint8Array, alignment: number): ArrayBufferLike {
  // Not `slice`, which a Buffer overrides with a view.
  return bytes.byteOffset % alignment === 0 ? bytes.buffer : new Uint8Array(bytes).buffer;
}

function alignedOffset(bytes: Uint8Array, alignment: number): number {
  return bytes.byteOffset % alignment === 0 ? bytes.byteOffset : 0;
}

/** Float types that checkpoints are written in. */
export type StoredFloat = "F32" | "F16" | "BF16";

/** Checks that `decodeFloats` reads a type: each element is a float, not a value of a block. */
export function isStoredFloat(type: string): type is StoredFloat {
  return type === "F32" || type === "F16" || type === "BF16";
}

/** Encodes values in a type; F32 bytes share the memory of `values`. */
export function encodeFloats(values: Float32Array, type: StoredFloat): Uint8Array {
  if (type === "F16") return encodeF16(values);
  if (type === "BF16") return encodeBf16(values);
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Decodes values of a type; F32 values share the memory of `bytes` where its alignment allows. */
export function decodeFloats(bytes: Uint8Array, type: StoredFloat): Float32Array {
  if (type === "F16") return decodeF16(bytes);
  return type === "BF16" ? decodeBf16(bytes) : decodeF32(bytes);
}

/**
 * Transposes `[numRows, numColumns]` in squares, so that both sides stay in the processor's cache.
 *
 * @param into - receives the result, `[numColumns, numRows]`, at its beginning @default a new array
 * @returns `into`
 */
export function transpose(
  values: Float32Array,
  numRows: number,
  numColumns: number,
  into: Float32Array<ArrayBuffer> = new Float32Array(values.length),
): Float32Array<ArrayBuffer> {
  const side = 32;
  for (let top = 0; top < numRows; top += side) {
    for (let left = 0; left < numColumns; left += side) {
      const bottom = Math.min(numRows, top + side);
      const right = Math.min(numColumns, left + side);
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) {
          into[column * numRows + row] = values[row * numColumns + column] ?? 0;
        }
      }
    }
  }
  return into;
}
