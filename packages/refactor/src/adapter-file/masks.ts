// Sets of neurons as bits.

/** @param neurons - rising, below `count` */
export function maskOf(neurons: Int32Array, count: number): Uint8Array {
  const bits = new Uint8Array(maskBytes(count));
  for (const neuron of neurons) bits[neuron >> 3] = (bits[neuron >> 3] as number) | (1 << (neuron & 7));
  return bits;
}

/** @returns rising; `undefined` where `bits` do not hold `size` neurons below `count` */
export function neuronsOf(bits: Uint8Array, count: number, size: number): Int32Array | undefined {
  const found: number[] = [];
  for (let at = 0; at < 8 * bits.length; at++) {
    if (((bits[at >> 3] as number) >> (at & 7)) & 1) found.push(at);
  }
  return found.length === size && (found.at(-1) ?? 0) < count ? Int32Array.from(found) : undefined;
}

export function maskBytes(count: number): number {
  return Math.ceil(count / 8);
}
