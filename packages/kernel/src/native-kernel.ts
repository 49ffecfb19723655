// The kernel as an addon of this platform.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { arch, platform } from "node:process";
import type { KernelInfo } from "@readme-moe/core";
import {
  type Kernel,
  type KernelPages,
  type KernelSizes,
  LAYER_STATES,
  type LayerStates,
  type StepResults,
} from "./kernel.ts";
import { KV_PRECISIONS, type KvPrecision } from "./kv/kv-shape.ts";
import type { PackedPiece, RowsToPack } from "./pack/block-types.ts";

/** Exports of `native/addon.c`. */
export interface Addon {
  instructionSets(): string[];
  open(weights: string | Uint8Array | object, instructions: string, options: Int32Array): unknown;
  newWeights(bytes: number): object;
  writeWeights(weights: object, place: number, bytes: Uint8Array): void;
  packRows(
    target: object | Uint8Array,
    place: number,
    options: Int32Array,
    rows: Uint8Array,
    inputs: Float32Array,
    scales: Float32Array,
  ): void;
  startTeam(threads: number): object;
  endTeam(team: object): void;
  multiplyRows(
    team: object,
    weights: object,
    instructions: string,
    tensor: Int32Array,
    rows: Float32Array,
    outputs: Float32Array,
  ): void;
  /** Absent on Windows. */
  readRows?(descriptor: number, offset: number, target: Uint8Array, place: number, options: Int32Array): Promise<void>;
  openPages(kernel: unknown, numPages: number, numStates: number, type: number): unknown;
  closePages(pages: unknown): void;
  readPage(pages: unknown, page: number, bytes: Uint8Array): void;
  writePage(pages: unknown, page: number, bytes: Uint8Array): void;
  rotary(kernel: unknown, angleSet: number, position: number, angles: Float32Array): void;
  step(
    kernel: unknown,
    pages: unknown,
    request: Int32Array,
    candidateIds: Int32Array,
    logits: Float32Array,
    sums: Float64Array,
    fullLogits: Float32Array,
    inputSquares: Float32Array,
  ): void;
  begin: Addon["step"];
  runLayers(kernel: unknown, from: number, to: number): void;
  routeLayer(kernel: unknown, layer: number): Int32Array;
  feedLayer(kernel: unknown, layer: number): void;
  end(kernel: unknown): void;
  writeStream(kernel: unknown, rows: Float32Array): void;
  readStates(kernel: unknown, states: number, rows: Float32Array): void;
  tap(kernel: unknown, layers: Int32Array): void;
  readTaps(kernel: unknown, rows: Float32Array): void;
  readEmbeddings(kernel: unknown, tokenIds: Int32Array, rows: Float32Array): void;
  place(kernel: unknown, layer: number, expert: number, unit: Uint8Array): void;
  placeLora(kernel: unknown, slot: number, lora: Uint8Array): void;
  readLogits(kernel: unknown, wanted: number, logits: Float32Array): boolean;
  close(kernel: unknown): void;
  returnFreeMemory(): void;
  keepFreeMemory(): void;
}

/** Loads the addon of this platform. @throws {Error} when there is none, or it does not load */
export function loadAddon(): Addon {
  const require = createRequire(import.meta.url);
  return require(`../prebuilt/${platform}-${arch}/kernel.node`) as Addon;
}

/**
 * Opens a packed file in an addon.
 *
 * @param weights - the file's path, its bytes, or the memory of `NativeWeights`
 * @param instructions - one of the addon's `instructionSets`
 * @throws {RangeError} when the file is invalid, or there is no memory
 */
export function openNative(
  addon: Addon,
  weights: string | Uint8Array | NativeWeights,
  instructions: string,
  sizes: KernelSizes,
): Kernel {
  const isStreamed = sizes.expertsFromByte === undefined ? 0 : 1;
  const options = Int32Array.of(sizes.threads, sizes.maxRows, sizes.maxPositions, isStreamed);
  const handle = addon.open(weights instanceof NativeWeights ? weights.handle : weights, instructions, options);
  return new NativeKernel(addon, handle, { kind: "native", instructions, threads: sizes.threads });
}

/** Packs rows into an array, or into memory of `newWeights`. @throws {RangeError} when they are no whole blocks */
export function packNatively(
  addon: Addon,
  { format, source, numIn, rows, inputs, scales }: RowsToPack,
  threads: number,
  { target, place }: { readonly target: object | Uint8Array; readonly place: number },
): void {
  addon.packRows(target, place, Int32Array.of(format, source, numIn, threads), rows, inputs, scales);
}

/** Memory outside JavaScript with a packed file, which belongs to the kernel that opens it. */
export class NativeWeights {
  readonly handle: object;

  private constructor(handle: object) {
    this.handle = handle;
  }

  /**
   * Allocates memory and fills it.
   * @throws {RangeError} when there is no memory
   */
  static async fill(
    addon: Addon,
    numBytes: number,
    pieces: AsyncIterable<PackedPiece>,
    threads: number,
  ): Promise<NativeWeights> {
    const handle = addon.newWeights(numBytes);
    let place = 0;
    for await (const piece of pieces) {
      if (piece instanceof Uint8Array) addon.writeWeights(handle, place, piece);
      else packNatively(addon, piece, threads, { target: handle, place });
      place += piece.byteLength;
    }
    return new NativeWeights(handle);
  }
}

const NO_FLOATS = new Float32Array(0);
const NO_BYTES = new Uint8Array(0);

class NativePages implements KernelPages {
  readonly handle: unknown;
  readonly numPages: number;
  readonly #addon: Addon;

  constructor(addon: Addon, handle: unknown, numPages: number) {
    this.#addon = addon;
    this.handle = handle;
    this.numPages = numPages;
  }

  read(page: number, bytes: Uint8Array): void {
    this.#addon.readPage(this.handle, page, bytes);
  }

  write(page: number, bytes: Uint8Array): void {
    this.#addon.writePage(this.handle, page, bytes);
  }

  close(): void {
    this.#addon.closePages(this.handle);
  }
}

class NativeKernel implements Kernel {
  readonly info: KernelInfo;
  readonly #addon: Addon;
  readonly #handle: unknown;
  #isClosed = false;

  constructor(addon: Addon, handle: unknown, info: KernelInfo) {
    this.#addon = addon;
    this.#handle = handle;
    this.info = info;
  }

  openPages(numPages: number, precision: KvPrecision, numStates = 0): KernelPages {
    const handle = this.#addon.openPages(this.#handle, numPages, numStates, KV_PRECISIONS.indexOf(precision));
    return new NativePages(this.#addon, handle, numPages);
  }

  setAngles(angleSet: number, position: number, angles: Float32Array): void {
    this.#addon.rotary(this.#handle, angleSet, position, angles);
  }

  step(pages: KernelPages, request: Int32Array, results: StepResults): void {
    this.#call("step", pages, request, results);
  }

  beginStep(pages: KernelPages, request: Int32Array, results: StepResults): void {
    this.#call("begin", pages, request, results);
  }

  runLayers(from: number, to: number): void {
    this.#addon.runLayers(this.#handle, from, to);
  }

  routeLayer(layer: number): Int32Array {
    return this.#addon.routeLayer(this.#handle, layer);
  }

  feedLayer(layer: number): void {
    this.#addon.feedLayer(this.#handle, layer);
  }

  endStep(): void {
    this.#addon.end(this.#handle);
  }

  writeStream(rows: Float32Array): void {
    this.#addon.writeStream(this.#handle, rows);
  }

  readStates(states: LayerStates, rows: Float32Array): void {
    this.#addon.readStates(this.#handle, LAYER_STATES.indexOf(states), rows);
  }

  tapLayers(layers: readonly number[]): void {
    this.#addon.tap(this.#handle, Int32Array.from(layers));
  }

  readEmbeddings(tokenIds: Int32Array, rows: Float32Array): void {
    this.#addon.readEmbeddings(this.#handle, tokenIds, rows);
  }

  readTaps(rows: Float32Array): void {
    this.#addon.readTaps(this.#handle, rows);
  }

  placeUnit(layer: number, expert: number, unit: Uint8Array = NO_BYTES): void {
    this.#addon.place(this.#handle, layer, expert, unit);
  }

  placeLora(slot: number, lora: Uint8Array | undefined): void {
    this.#addon.placeLora(this.#handle, slot, lora ?? NO_BYTES);
  }

  #call(name: "step" | "begin", pages: KernelPages, request: Int32Array, results: StepResults): void {
    const { candidateIds, logits, sums, fullLogits, inputSquares = NO_FLOATS } = results;
    const { handle } = pages as NativePages;
    this.#addon[name](this.#handle, handle, request, candidateIds, logits, sums, fullLogits, inputSquares);
  }

  readLogits(wanted: number, logits: Float32Array): boolean {
    return this.#addon.readLogits(this.#handle, wanted, logits);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#addon.close(this.#handle);
  }
}

/** Changes when kernels compute other bits from the same weights; a fleet serves these as another model. */
export const BITS_VERSION = 2;

let version: string | undefined;

/**
 * Returns a hash, in hex, of the kernel's sources and binaries. Kernels of one version compute the same bits on every
 * platform.
 */
export function kernelVersion(): string {
  version ??= createHash("sha256")
    .update(readFileSync(new URL("../prebuilt/SOURCES.sha256", import.meta.url)))
    .digest("hex");
  return version;
}
