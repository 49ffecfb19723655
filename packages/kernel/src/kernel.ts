// An open kernel, independent of the build that runs it.

import type { KernelInfo } from "@readme-moe/core";
import type { KvPrecision } from "./kv/kv-shape.ts";

/** The build that runs: an addon of this platform, or WebAssembly. */
export type KernelKind = "native" | "wasm";

/** Memory of keys and values, and of states; a handle for `step`. */
export interface KernelPages {
  readonly numPages: number;
  /**
   * Copies a page in all layers, or state `page - numPages`. Every build and instruction set has the same bytes for the
   * same model.
   *
   * @param bytes - of the length of 16 positions in all layers, with heads padded to multiples of 16; or of a state
   * @throws {RangeError} on another length, or a page that does not exist
   */
  read(page: number, bytes: Uint8Array): void;
  /** Writes what `read` has copied. No step may run that reads or writes the page. @throws as `read` */
  write(page: number, bytes: Uint8Array): void;
  /** Frees the memory. */
  close(): void;
}

/** Arrays for a step's results, which may be longer than the results. */
export interface StepResults {
  /** Ids of the candidates, `[wanted, candidates]`, best first; lower ids first among equals. */
  readonly candidateIds: Int32Array;
  /** Logits of the candidates, `[wanted, candidates]`, then of the targets, `[wanted]`. */
  readonly logits: Float32Array;
  /** The largest logit, and the sum of `exp(logit - largest)`, `[wanted, 2]`. */
  readonly sums: Float64Array;
  /** All logits of some rows, `[fullRows, numLogits]`. */
  readonly fullLogits: Float32Array;
  /**
   * Sums of the squares of each input of each layer's products, over all rows: of query, key and value, of attention's
   * output, of gate and up, of down, then of gate and up and of down of each expert; one layer after another. Those of
   * an expert are over the rows that use it. In the last layer all but the first are over rows whose logits are wanted.
   *
   * @default not computed
   */
  readonly inputSquares?: Float32Array | undefined;
}

/** Rows inside a step, in the order of `States` in `native/kernel.h`. */
export const LAYER_STATES = ["stream", "update", "gated"] as const;
/** Kind of these rows. */
export type LayerStates = (typeof LAYER_STATES)[number];

/** Runs steps of one packed model. Calls block their thread. */
export interface Kernel {
  readonly info: KernelInfo;
  /**
   * Allocates pages and states.
   *
   * @param numStates - of a model with recurrences @default 0
   * @throws {RangeError} when there is no memory for them
   */
  openPages(numPages: number, precision: KvPrecision, numStates?: number): KernelPages;
  /** Sets angles of positions from `position` on, as `anglesOf` lists them. @param angleSet - see `LayerDescription` */
  setAngles(angleSet: number, position: number, angles: Float32Array): void;
  /** Runs a step. @param request - see `encodeStep` @throws {RangeError} on an invalid step; nothing has run then */
  step(pages: KernelPages, request: Int32Array, results: StepResults): void;
  /**
   * Begins a step that runs some layers at a time. The request is copied. The parts of the step that follow throw a
   * `TypeError` once its pages are closed, a `RangeError` once its results have shrunk. Another step ends it.
   *
   * @throws as `step`
   */
  beginStep(pages: KernelPages, request: Int32Array, results: StepResults): void;
  /**
   * Runs the next layers `[from, to)`.
   *
   * @throws {RangeError} when an expert that they may need was not placed: any expert of a mixture, and those of the
   *   rows in other layers
   */
  runLayers(from: number, to: number): void;
  /**
   * Runs the next layer, which is a mixture, up to its router. `feedLayer` runs its experts.
   *
   * @returns the chosen experts, `[rows][expertsPerToken]`, the most probable first; rows in the step's order, in the
   *   last layer only those with wanted logits
   * @throws {RangeError} when another layer comes next, or this one is no mixture; nothing has run then
   */
  routeLayer(layer: number): Int32Array;
  /**
   * Runs the rest of the layer whose router has run.
   *
   * @throws {RangeError} when a chosen expert was not placed, or the layer's router has not run; nothing has run then
   */
  feedLayer(layer: number): void;
  /** Computes the results of a step whose layers have all run. */
  endStep(): void;
  /**
   * Sets the rows of the residual stream that a step begins with in place of its tokens' embeddings.
   *
   * @param rows - `[rows, hiddenSize]`, or what a fusion without `stateNorm` takes for each row; each behind an
   *   embedding in a model with `tokenNorm` @throws {RangeError} on another length, or when layers of the step have run
   */
  writeStream(rows: Float32Array): void;
  /**
   * Copies rows of the last step, in its order, behind the layers that have run or behind its end. In the model's last
   * layer only rows whose logits are wanted are computed, and the others are left as they are.
   *
   * @param states - the residual stream, which lacks the last FFN's outputs until the step has ended; that FFN's
   *   outputs; or the inputs of its last product. The last two are of an FFN without experts.
   * @param rows - `[rows, hiddenSize]`, of gated inputs `[rows, neurons]`
   * @throws {RangeError} on another length, when no layer has run, or when the layer has experts
   */
  readStates(states: LayerStates, rows: Float32Array): void;
  /**
   * Names the layers in front of which later steps keep all rows of the residual stream. Once for a kernel.
   * @param layers - in rising order, in [1, numLayers]; the last number stands for the stream behind the last layer
   */
  tapLayers(layers: readonly number[]): void;
  /** Reads embeddings of tokens. @param rows - `[tokens, hiddenSize]` @throws {RangeError} for no such token */
  readEmbeddings(tokenIds: Int32Array, rows: Float32Array): void;
  /**
   * Copies the last step's rows of these layers.
   * @param rows - `[rows, layers, hiddenSize]` @throws {RangeError} on another length, or before these layers have run
   */
  readTaps(rows: Float32Array): void;
  /**
   * Sets the weights of one layer of one expert, in a kernel whose experts are streamed: its range of the packed file.
   * Steps that need them are refused once the array's buffer has shrunk or moved.
   *
   * @param unit - memory of `newUnit`; `undefined` removes the weights
   */
  placeUnit(layer: number, expert: number, unit: Uint8Array | undefined): void;
  /**
   * Allocates memory into which units of up to `bytes` can be read, and from which they can be placed.
   * @default any memory that begins at a multiple of 64 bytes
   */
  newUnit?(bytes: number): Uint8Array;
  /**
   * Sets the lora of a slot, for rows of later steps (`StepRows.loras`). Steps that need it are refused once it is
   * removed.
   *
   * @param slot - in [0, 65536)
   * @param lora - result of `packLora`, which must not be written to while it is placed; `undefined` removes it
   * @throws {RangeError} when the lora does not fit the model
   */
  placeLora(slot: number, lora: Uint8Array | undefined): void;
  /**
   * Copies all logits of a wanted row of the last step. The kernel keeps those of the step's last rows.
   *
   * @param logits - `[numLogits]`
   * @returns whether they are kept
   */
  readLogits(wanted: number, logits: Float32Array): boolean;
  /** Ends the threads and frees the memory. */
  close(): Promise<void>;
}

/** Number of a step's last wanted rows whose logits are kept until the next step; `LOGIT_ROWS` of `native/state.h`. */
export const KEPT_LOGITS_ROWS = 32;

/** Sizes of a kernel besides those of its model. */
export interface KernelSizes {
  readonly threads: number;
  /** Largest number of rows of one step. */
  readonly maxRows: number;
  /** Largest number of positions of one sequence. */
  readonly maxPositions: number;
  /** Offset of the experts in the file, whose units are placed one by one. @default all weights are in memory */
  readonly expertsFromByte?: number | undefined;
}
