import type { GraphTensor } from "@readme-moe/model";

/**
 * Where whole rows of logits are written, step after step: 0.2 MB a row, which the runtime would else take from the system
 * and copy each time.
 */
export class FullLogits {
  readonly #vocabSize: number;
  #memory = new Float32Array(0);

  constructor(vocabSize: number) {
    this.#vocabSize = vocabSize;
  }

  /** Makes room for so many rows; what was there before is lost. */
  reserve(numRows: number): void {
    const numFloats = numRows * this.#vocabSize;
    if (this.#memory.length < numFloats) this.#memory = new Float32Array(numFloats);
  }

  /** What a graph writes rows `[from, from + numRows)` to; nothing where there are none. */
  outputs(from: number, numRows: number): Readonly<Record<string, GraphTensor>> {
    if (numRows === 0) return {};
    const data = this.#memory.subarray(from * this.#vocabSize, (from + numRows) * this.#vocabSize);
    return { full_logits: { data, dims: [numRows, this.#vocabSize] } };
  }
}
