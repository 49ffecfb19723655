// Rotary angles of positions, computed when a position is first used.

import { ropeTables, type ModelConfig, type RopeConfig } from "@readme-moe/model";
import type { Kernel } from "./kernel.ts";

/** Positions whose angles are computed at a time. */
const POSITIONS = 256;

/** Lists the angles of positions `[from, to)` for `setAngles`: of each the cosines, then the sines. */
export function anglesOf(rope: RopeConfig, size: number, from: number, to: number): Float32Array {
  const { cos, sin } = ropeTables(rope, size, from, to);
  const half = size / 2;
  const angles = new Float32Array((to - from) * size);
  for (let row = 0; row < to - from; row++) {
    angles.set(cos.subarray(row * half, (row + 1) * half), row * size);
    angles.set(sin.subarray(row * half, (row + 1) * half), row * size + half);
  }
  return angles;
}

/** Passes angles to a kernel when a sequence first reaches their positions. */
export class GrowingAngles {
  readonly #kernel: Kernel;
  readonly #ropes: ModelConfig["ropes"];
  readonly #rotatedSize: number;
  readonly #maxPositions: number;
  #numPositions = 0;

  constructor(
    kernel: Kernel,
    { ropes, rotatedSize, contextTokens }: Pick<ModelConfig, "ropes" | "rotatedSize" | "contextTokens">,
  ) {
    this.#kernel = kernel;
    this.#ropes = ropes;
    this.#rotatedSize = rotatedSize;
    this.#maxPositions = contextTokens;
  }

  /** Makes sure that the kernel has the angles of positions below `numPositions`, at most those of the context. */
  reach(numPositions: number): void {
    while (this.#numPositions < numPositions) {
      const from = this.#numPositions;
      const to = Math.min(this.#maxPositions, from + POSITIONS);
      for (const [set, rope] of this.#ropes.entries()) {
        this.#kernel.setAngles(set, from, anglesOf(rope, this.#rotatedSize, from, to));
      }
      this.#numPositions = to;
    }
  }
}
