// Rotary angles of positions, computed when a position is first used.

import { ropeFrequencies, type ModelConfig, type RopeConfig } from "@readme-moe/model";
import type { Kernel } from "./kernel.ts";

/** Positions whose angles are computed at a time. */
const POSITIONS = 256;

/**
 * Computes the angles of positions `[from, to)`: of each the cosines, then the sines, `[to - from, 2, size / 2]`.
 * Angles are rounded where PyTorch rounds them.
 */
export function anglesOf(rope: RopeConfig, size: number, from: number, to: number): Float32Array {
  const frequencies = ropeFrequencies(rope, size);
  const half = frequencies.length;
  const angles = new Float32Array((to - from) * 2 * half);
  for (let position = from; position < to; position++) {
    const start = (position - from) * 2 * half;
    for (const [pair, frequency] of frequencies.entries()) {
      const angle = Math.fround(position * frequency);
      angles[start + pair] = Math.cos(angle);
      angles[start + half + pair] = Math.sin(angle);
    }
  }
  return angles;
}

/** Passes angles to a kernel when a sequence first reaches their positions. */
export class GrowingAngles {
  readonly #kernel: Kernel;
  readonly #rope: ModelConfig["rope"];
  readonly #headSize: number;
  readonly #maxPositions: number;
  #numPositions = 0;

  constructor(
    kernel: Kernel,
    { rope, headSize, contextTokens }: Pick<ModelConfig, "rope" | "headSize" | "contextTokens">,
  ) {
    this.#kernel = kernel;
    this.#rope = rope;
    this.#headSize = headSize;
    this.#maxPositions = contextTokens;
  }

  /** Makes sure that the kernel has the angles of positions below `numPositions`, at most those of the context. */
  reach(numPositions: number): void {
    while (this.#numPositions < numPositions) {
      const from = this.#numPositions;
      const to = Math.min(this.#maxPositions, from + POSITIONS);
      this.#kernel.setAngles(0, from, anglesOf(this.#rope, this.#headSize, from, to));
      this.#numPositions = to;
    }
  }
}
