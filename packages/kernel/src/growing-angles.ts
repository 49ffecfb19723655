import type { ModelConfig } from "@readme-moe/model";
import { anglesOf } from "./angles.ts";
import type { Kernel } from "./kernel.ts";

/** Positions whose angles are computed at a time. */
const POSITIONS = 256;

/** Angles of a kernel's positions, computed when a sequence first reaches them. */
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

  /** Gives the kernel the angles of positions below `numPositions`, at most those of the context. */
  reach(numPositions: number): void {
    while (this.#numPositions < numPositions) {
      const from = this.#numPositions;
      const to = Math.min(this.#maxPositions, from + POSITIONS);
      this.#kernel.setAngles(0, from, anglesOf(this.#rope, this.#headSize, from, to));
      this.#numPositions = to;
    }
  }
}
