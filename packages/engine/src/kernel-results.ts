// Results of a step's calls, put together by sequence.

import type { Kernel, StepResults } from "@readme-moe/kernel";
import type { StepPiece } from "./kernel-pieces.ts";
import type { StepSequence } from "./step-runner.ts";
import type { StepLogits } from "./step-logits.ts";

export class KernelResults {
  readonly #vocabSize: number;
  #candidateIds = new Int32Array(0);
  #logits = new Float32Array(0);
  #sums = new Float64Array(0);
  /** Rows of all logits; the next step writes over them. */
  #fullLogits = new Float32Array(0);
  #numFullRows = 0;
  /** By sequence: its first row of all logits. */
  #firstFullRows: number[] = [];
  #numCandidates = 1;
  #numWanted = 0;
  #results: StepLogits[] = [];
  /** Rows of the last call, whose logits the kernel keeps: by sequence and place, the call's wanted row. */
  #lastRows: ReadonlyMap<number, readonly (number | undefined)[]> = new Map();
  /** Rows that were read of a step; the next one writes over them. */
  readonly #readRows: Float32Array[] = [];
  #numRead = 0;
  readonly #kernel: Kernel;

  constructor(kernel: Kernel, vocabSize: number) {
    this.#kernel = kernel;
    this.#vocabSize = vocabSize;
  }

  /** Begins a step. */
  begin(sequences: readonly StepSequence[], numCandidates: number): void {
    this.#numCandidates = numCandidates;
    this.#numRead = 0;
    this.#numFullRows = sequences.reduce((sum, s) => sum + (s.wantsFullLogits ? s.logitsOf.length : 0), 0);
    if (this.#fullLogits.length < this.#numFullRows * this.#vocabSize) {
      this.#fullLogits = new Float32Array(this.#numFullRows * this.#vocabSize);
    }
    let fullRow = 0;
    this.#firstFullRows = [];
    const results = sequences.map(({ logitsOf: { length }, wantsFullLogits }, sequence) => {
      const firstFull = fullRow * this.#vocabSize;
      this.#firstFullRows.push(fullRow);
      if (wantsFullLogits) fullRow += length;
      return {
        candidateIds: new Int32Array(length * numCandidates),
        candidateLogits: new Float32Array(length * numCandidates),
        logSumExp: new Float32Array(length),
        targetLogProbs: new Float32Array(length),
        fullLogits: this.#fullLogits.subarray(firstFull, fullRow * this.#vocabSize),
        readRow: (place: number) => (this.#results === results ? this.#readRow(sequence, place) : undefined),
      };
    });
    this.#results = results;
  }

  /** Rows of all logits that the step gives. */
  get numFullRows(): number {
    return this.#numFullRows;
  }

  /** Row of all logits that belongs to a sequence's wanted row. */
  fullRow(sequence: number, place: number): number {
    return (this.#firstFullRows[sequence] as number) + place;
  }

  /** Room for one call's results. */
  room(numWanted: number): StepResults {
    const numLogits = numWanted * (this.#numCandidates + 1);
    if (this.#logits.length < numLogits) {
      this.#candidateIds = new Int32Array(numLogits);
      this.#logits = new Float32Array(numLogits);
    }
    if (this.#sums.length < 2 * numWanted) this.#sums = new Float64Array(2 * numWanted);
    this.#numWanted = numWanted;
    return {
      candidateIds: this.#candidateIds,
      logits: this.#logits,
      sums: this.#sums,
      fullLogits: this.#fullLogits.subarray(0, this.#numFullRows * this.#vocabSize),
    };
  }

  /** Takes the results of the call that room was made for. */
  take(pieces: readonly StepPiece[]): void {
    const numCandidates = this.#numCandidates;
    const targets = this.#numWanted * numCandidates;
    const lastRows = new Map<number, (number | undefined)[]>();
    this.#lastRows = lastRows;
    let row = 0;
    for (const { sequence, wanted } of pieces) {
      const rows: (number | undefined)[] = [];
      lastRows.set(sequence, rows);
      const result = this.#results[sequence] as StepLogits;
      for (const { place } of wanted) {
        const start = row * numCandidates;
        rows[place] = row;
        result.candidateIds.set(this.#candidateIds.subarray(start, start + numCandidates), place * numCandidates);
        result.candidateLogits.set(this.#logits.subarray(start, start + numCandidates), place * numCandidates);
        const logSumExp = (this.#sums[2 * row] as number) + Math.log(this.#sums[2 * row + 1] as number);
        result.logSumExp[place] = logSumExp;
        result.targetLogProbs[place] = (this.#logits[targets + row] as number) - logSumExp;
        row++;
      }
    }
  }

  end(): readonly StepLogits[] {
    return this.#results;
  }

  #readRow(sequence: number, place: number): Float32Array | undefined {
    const row = this.#lastRows.get(sequence)?.[place];
    if (row === undefined) return undefined;
    const logits = (this.#readRows[this.#numRead] ??= new Float32Array(this.#vocabSize));
    if (!this.#kernel.readLogits(row, logits)) return undefined;
    this.#numRead++;
    return logits;
  }
}
