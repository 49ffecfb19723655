// Interface of an open kernel, the same for all builds.

import type { KernelInfo } from "@readme-moe/core";

/** Build of the kernel: an addon of this platform, or WebAssembly. */
export type KernelKind = KernelInfo["kind"];

/** Handle of memory for keys and values. */
export interface KernelPages {
  readonly numPages: number;
  /** Releases the memory. */
  close(): void;
}

/** Arrays for a step's results. They may be longer than the results. */
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
   * Sums of the squared inputs of each layer's products over all rows: inputs of query, key and value; of attention's
   * output; of gate and up; of down. In the last layer, the latter three are only over rows with wanted logits.
   *
   * @default not computed
   */
  readonly inputSquares?: Float32Array | undefined;
}

/** Kernel with one packed model. Calls block their thread. */
export interface Kernel {
  readonly info: KernelInfo;
  /** Allocates pages for keys and values. @throws {RangeError} when there is not enough memory */
  openPages(numPages: number, isHalf: boolean): KernelPages;
  /** Sets the angles of positions from `position`: of each the cosines, then the sines. */
  setAngles(rotary: number, position: number, angles: Float32Array): void;
  /**
   * Runs a step.
   *
   * @param request - see `encodeStep`
   * @throws {RangeError} for an invalid request, before anything has run
   */
  step(pages: KernelPages, request: Int32Array, results: StepResults): void;
  /**
   * Begins a step that runs some layers at a time. The arrays must not be changed until it has ended.
   *
   * @throws as `step`
   */
  beginStep(pages: KernelPages, request: Int32Array, results: StepResults): void;
  /** Runs the next layers `[from, to)`. @throws {RangeError} when an expert that they need was not placed */
  runLayers(from: number, to: number): void;
  /** Computes the results of a step after all its layers have run. */
  endStep(): void;
  /**
   * Places the weights of one layer of one expert, its range of the packed file, in a kernel with streamed experts. The
   * memory must not change until other weights are placed.
   *
   * @param unit - memory from `newUnit`; `undefined` removes the weights
   */
  placeUnit(layer: number, expert: number, unit: Uint8Array | undefined): void;
  /** Allocates memory for units of up to `bytes`. @default any memory that begins at a multiple of 64 bytes */
  newUnit?(bytes: number): Uint8Array;
  /**
   * Copies all logits of a wanted row of the last step. The kernel keeps the logits of a step's last rows.
   *
   * @param logits - room for `[numLogits]`
   * @returns whether the row's logits were kept
   */
  readLogits(wanted: number, logits: Float32Array): boolean;
  /** Ends the kernel's threads and releases its memory. */
  close(): Promise<void>;
}

/** Number of a step's last wanted rows whose logits are kept until the next step; `LOGIT_ROWS` of `native/state.h`. */
export const KEPT_LOGITS_ROWS = 32;

/** Sizes of a kernel that do not depend on its model. */
export interface KernelSizes {
  readonly threads: number;
  /** Largest number of rows in a step. */
  readonly maxRows: number;
  /** Largest number of positions in a sequence. */
  readonly maxPositions: number;
  /** Offset of streamed experts in the file; their units are placed one by one. @default all weights are in memory */
  readonly expertsFromByte?: number | undefined;
}
