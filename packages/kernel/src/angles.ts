// Rotary angles of positions, computed when a position is first used.

import { ropeFrequencies, type RopeConfig } from "@readme-moe/model";

/** Cosines, then sines, of each of positions `[from, to)`, `[to - from, 2, size / 2]`; angles are rounded where PyTorch rounds them. */
export function anglesOf(rope: RopeConfig, size: number, from: number, to: number): Float32Array {
  const frequencies = ropeFrequencies(rope, size);
  const half = frequencies.length;
  const angles = new Float32Array((to - from) * 2 * half);
  for (let position = from; position < to; position++) {
    const start = (position - from) * 2 * half;
    for (let pair = 0; pair < half; pair++) {
      const angle = Math.fround(position * (frequencies[pair] as number));
      angles[start + pair] = Math.cos(angle);
      angles[start + half + pair] = Math.sin(angle);
    }
  }
  return angles;
}
