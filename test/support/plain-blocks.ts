// ggml's blocks decoded one value at a time, straight from their description in llama.cpp's ggml-common.h.

export function plainF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Value `index` of a tensor stored as Q8_0. */
export function plainQ8(bytes: Uint8Array, index: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = Math.floor(index / 32) * 34;
  return Math.fround(plainF16(view.getUint16(start, true)) * view.getInt8(start + 2 + (index % 32)));
}

/** Value `index` of a tensor stored as Q4_0. */
export function plainQ4Symmetric(bytes: Uint8Array, index: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = Math.floor(index / 32) * 18;
  const byte = view.getUint8(start + 2 + (index % 16));
  const nibble = index % 32 < 16 ? byte % 16 : Math.floor(byte / 16);
  return Math.fround(plainF16(view.getUint16(start, true)) * (nibble - 8));
}

/** Value `index` of a tensor stored as Q4_1. */
export function plainQ4Affine(bytes: Uint8Array, index: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = Math.floor(index / 32) * 20;
  const byte = view.getUint8(start + 4 + (index % 16));
  const nibble = index % 32 < 16 ? byte % 16 : Math.floor(byte / 16);
  return Math.fround(plainF16(view.getUint16(start, true)) * nibble + plainF16(view.getUint16(start + 2, true)));
}

/** Value `index` of a tensor stored as Q4_K. */
export function plainQ4K(bytes: Uint8Array, index: number): number {
  const block = blockAt(bytes, index, 144);
  const inBlock = index % 256;
  const [scales, quants] = [4, 16];
  // The bytes come in four runs of 32, each the values of two of the eight scales.
  const byte = block.getUint8(quants + 32 * Math.floor(inBlock / 64) + (inBlock % 32));
  const quant = inBlock % 64 < 32 ? byte % 16 : Math.floor(byte / 16);
  const j = Math.floor(inBlock / 32);
  const part = (at: number): number => block.getUint8(scales + at);
  const scale = j < 4 ? part(j) % 64 : (part(j + 4) % 16) + 16 * Math.floor(part(j - 4) / 64);
  const minimum = j < 4 ? part(j + 4) % 64 : Math.floor(part(j + 4) / 16) + 16 * Math.floor(part(j) / 64);
  const [d, dmin] = [plainF16(block.getUint16(0, true)), plainF16(block.getUint16(2, true))];
  return Math.fround(d * scale * quant - dmin * minimum);
}

/** Value `index` of a tensor stored as Q6_K. */
export function plainQ6K(bytes: Uint8Array, index: number): number {
  const block = blockAt(bytes, index, 210);
  const half = Math.floor((index % 256) / 128);
  const quarter = Math.floor((index % 128) / 32);
  const l = index % 32;
  const [low, high, scales] = [64 * half, 128 + 32 * half, 192 + 8 * half];
  const byte = block.getUint8(low + 32 * (quarter % 2) + l);
  const nibble = quarter < 2 ? byte % 16 : Math.floor(byte / 16);
  const twoBits = Math.floor(block.getUint8(high + l) / 4 ** quarter) % 4;
  const scale = block.getInt8(scales + 2 * quarter + Math.floor(l / 16));
  return Math.fround(plainF16(block.getUint16(208, true)) * scale * (nibble + 16 * twoBits - 32));
}

/** The block of 256 values that holds value `index`. */
function blockAt(bytes: Uint8Array, index: number, blockBytes: number): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset + Math.floor(index / 256) * blockBytes, blockBytes);
}

/**
 * Random blocks: bytes as they come, but with finite numbers in the F16 fields at the front of each.
 * @param numHalves - how many F16 fields there are
 */
export function randomBlocks(numBlocks: number, blockBytes: number, numHalves: number, seed: number): Uint8Array {
  let state = seed;
  const next = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
  const bytes = Uint8Array.from({ length: numBlocks * blockBytes }, next);
  for (let start = 0; start < bytes.length; start += blockBytes) {
    // Without the exponent's top bit a number is below 2, and neither infinite nor NaN.
    for (let half = 0; half < numHalves; half++)
      bytes[start + 2 * half + 1] = (bytes[start + 2 * half + 1] ?? 0) & 0xbf;
  }
  return bytes;
}
