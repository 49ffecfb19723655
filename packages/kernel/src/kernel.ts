// A kernel that is open, whichever build runs it.

import type { KernelInfo } from "@readme-moe/core";

/** Which build runs: an addon of this platform, or WebAssembly. */
export type KernelKind = KernelInfo["kind"];

/** Memory of keys and values; a handle for `step`. */
export interface KernelPages {
  readonly numPages: number;
  /** Gives the memory back. */
  close(): void;
}

/** Where a step's results go. Arrays may be longer than the results. */
export interface StepResults {
  /** `[wanted, candidates]`, best first, lower ids first among equals. */
  readonly candidateIds: Int32Array;
  /** `[wanted, candidates]`, then the targets' logits, `[wanted]`. */
  readonly logits: Float32Array;
  /** `[wanted, 2]`: the largest logit, and the sum of `exp(logit - largest)`. */
  readonly sums: Float64Array;
  /** `[fullRows, numLogits]`. */
  readonly fullLogits: Float32Array;
  /**
   * Sums of the squares of each input of each layer's products, over all rows: of query, key and value, of attention's output, of gate
   * and up, of down; one layer after the other. In the last layer the latter three are over rows whose logits are wanted.
   *
   * @default not computed
   */
  readonly inputSquares?: Float32Array | undefined;
}

/** Runs steps of one packed model. Calls block their thread. */
export interface Kernel {
  readonly info: KernelInfo;
  /** @throws {RangeError} when there is no memory for them */
  openPages(numPages: number, isHalf: boolean): KernelPages;
  /** Takes angles of positions from `position` on: of each the cosines, then the sines. */
  setAngles(rotary: number, position: number, angles: Float32Array): void;
  /** @param request - see `encodeStep` @throws {RangeError} on what makes no step; nothing has run then */
  step(pages: KernelPages, request: Int32Array, results: StepResults): void;
  /** Begins a step that runs some layers at a time; the arrays are left alone until it has ended. @throws as `step` */
  beginStep(pages: KernelPages, request: Int32Array, results: StepResults): void;
  /** Runs layers `[from, to)`, those that come next. @throws {RangeError} when an expert that they need was not placed */
  runLayers(from: number, to: number): void;
  /** Computes the results of a step whose layers have all run. */
  endStep(): void;
  /**
   * Takes the weights of one layer of one expert, in a kernel whose experts are streamed: its range of the packed file. They
   * stay where they are until others are placed.
   *
   * @param unit - memory that `newUnit` gave; `undefined` takes the weights away
   */
  placeUnit(layer: number, expert: number, unit: Uint8Array | undefined): void;
  /** Memory that units of up to `bytes` can be read into and placed from. @default any, which begins at a multiple of 64 bytes */
  newUnit?(bytes: number): Uint8Array;
  /**
   * Copies all logits of a wanted row of the last step. The kernel keeps those of a step's last rows.
   *
   * @param logits - room for `[numLogits]`
   * @returns whether they are kept
   */
  readLogits(wanted: number, logits: Float32Array): boolean;
  /** Ends its threads and gives its memory back. */
  close(): Promise<void>;
}

/** Wanted rows, a step's last ones, whose logits a kernel keeps until the next step; `LOGIT_ROWS` of `native/state.h`. */
export const KEPT_LOGITS_ROWS = 32;

/** Sizes of a kernel, beyond those of its model. */
export interface KernelSizes {
  readonly threads: number;
  /** Rows of one step. */
  readonly maxRows: number;
  /** Positions of one sequence. */
  readonly maxPositions: number;
  /** Where experts begin in the file, whose units are placed one by one. @default all weights are in memory */
  readonly expertsFromByte?: number | undefined;
}
