// The kernel as WebAssembly. Its memory is shared with worker threads, which take part in steps.

import { closeSync, openSync, readSync, statSync } from "node:fs";
import { Worker } from "node:worker_threads";
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
import {
  FIRST_PAGES,
  newMemory,
  openModule,
  readModule,
  WASM_PAGE_BYTES,
  type WasmCalls,
  type WasmMemory,
  webAssembly,
} from "./wasm-calls.ts";

/** Further exports of the module with relaxed SIMD. */
interface RelaxedExports {
  has_exact_product(): number;
}

const STACK_BYTES = 1 << 20;
const READ_BYTES = 1 << 24;

// A text, so that no compiler or bundler changes it. The thread takes part in steps until the kernel is closed.
const WORKER = `
const { module, memory, kernel, thread, stack } = require("node:worker_threads").workerData;
const { exports } = new WebAssembly.Instance(module, { env: { memory } });
exports.use_stack(stack);
exports.help(kernel, thread);
`;

let relaxedIsExact: boolean | undefined;

/** Names the module that runs here: the one with relaxed SIMD if the engine's product is exact. */
export function wasmInstructions(): "wasm-relaxed-simd" | "wasm-simd" {
  relaxedIsExact ??= isRelaxedExact();
  return relaxedIsExact ? "wasm-relaxed-simd" : "wasm-simd";
}

function isRelaxedExact(): boolean {
  const bytes = readModule("wasm-relaxed-simd");
  if (!webAssembly.validate(bytes)) return false;
  const memory = newMemory(FIRST_PAGES);
  const { exports } = new webAssembly.Instance(new webAssembly.Module(bytes), { env: { memory } });
  return (exports as unknown as RelaxedExports).has_exact_product() === 1;
}

/**
 * Opens a packed file in WebAssembly, and reads it into memory.
 *
 * @param weights - the file's path, or its bytes
 * @param instructions - one of the available ones; "plain" are the loops without vectors
 * @throws {RangeError} when the file is invalid, or there is not enough memory
 */
export function openWasm(weights: string | Uint8Array, instructions: string, sizes: KernelSizes): Kernel {
  const { module, calls } = openModule(instructions);
  const { memory } = calls;
  const numBytes = typeof weights === "string" ? statSync(weights).size : weights.byteLength;
  const { threads, maxRows, maxPositions, expertsFromByte: bytesInMemory = numBytes } = sizes;
  const file = calls.allocate(bytesInMemory);
  readInto(memory, file, weights, bytesInMemory);
  const options = calls.allocate(16);
  new Int32Array(memory.buffer, options, 4).set([threads, maxRows, maxPositions, bytesInMemory < numBytes ? 1 : 0]);
  const handle = calls.exports.open(file, numBytes, options, instructions === "plain" ? 1 : 0);
  if (handle === 0) throw new RangeError(calls.textAt(calls.exports.reason()));
  const workers = Array.from({ length: sizes.threads - 1 }, (_, index) => {
    const stack = calls.allocate(STACK_BYTES) + STACK_BYTES;
    const workerData = { module, memory, kernel: handle, thread: index + 1, stack };
    const worker = new Worker(WORKER, { eval: true, workerData });
    // A kernel that is never closed must not keep the process alive.
    worker.unref();
    return worker;
  });
  return new WasmKernel(calls, handle, workers, { kind: "wasm", instructions, threads: sizes.threads });
}

function readInto(memory: WasmMemory, at: number, weights: string | Uint8Array, bytes: number): void {
  if (typeof weights !== "string") {
    new Uint8Array(memory.buffer, at, bytes).set(weights.subarray(0, bytes));
    return;
  }
  const file = openSync(weights, "r");
  try {
    for (let from = at, end = at + bytes; from < end;) {
      const into = new Uint8Array(memory.buffer, from, Math.min(READ_BYTES, end - from));
      const numRead = readSync(file, into);
      if (numRead === 0) throw new RangeError("the file's length");
      from += numRead;
    }
  } finally {
    closeSync(file);
  }
}

class WasmPages implements KernelPages {
  readonly numPages: number;
  readonly #calls: WasmCalls;
  #handle: number;

  constructor(calls: WasmCalls, handle: number, numPages: number) {
    this.#calls = calls;
    this.#handle = handle;
    this.numPages = numPages;
  }

  /** @throws {TypeError} when the pages are closed, or in another kernel's memory */
  handleIn(calls: WasmCalls): number {
    if (this.#handle === 0 || this.#calls !== calls) throw new TypeError("Expected pages of this kernel that are open");
    return this.#handle;
  }

  read(page: number, bytes: Uint8Array): void {
    this.#copy("read_page", page, bytes);
  }

  write(page: number, bytes: Uint8Array): void {
    this.#copy("write_page", page, bytes);
  }

  #copy(name: "read_page" | "write_page", page: number, bytes: Uint8Array): void {
    const handle = this.handleIn(this.#calls);
    const { exports } = this.#calls;
    const at = this.#calls.allocate(bytes.length);
    try {
      // Allocating may have grown the memory, which then has another buffer.
      if (name === "write_page") new Uint8Array(this.#calls.memory.buffer, at, bytes.length).set(bytes);
      this.#calls.check(exports[name](handle, page, at, bytes.length));
      if (name === "read_page") bytes.set(new Uint8Array(this.#calls.memory.buffer, at, bytes.length));
    } finally {
      exports.release(at);
    }
  }

  close(): void {
    if (this.#handle !== 0) this.#calls.exports.close_pages(this.#handle);
    this.#handle = 0;
  }
}

class WasmKernel implements Kernel {
  readonly info: KernelInfo;
  readonly #calls: WasmCalls;
  readonly #handle: number;
  readonly #workers: readonly Worker[];
  #isClosed = false;
  /** Addresses of the loras that are placed, by slot. */
  readonly #loras = new Map<number, number>();
  readonly #room: StepRoom;
  /** Memory for a length. */
  #lengthAt = 0;
  /** The step that runs some layers at a time. */
  #begun: { readonly pages: WasmPages; readonly results: StepResults } | undefined;

  constructor(calls: WasmCalls, handle: number, workers: readonly Worker[], info: KernelInfo) {
    this.#calls = calls;
    this.#handle = handle;
    this.#workers = workers;
    this.info = info;
    this.#room = new StepRoom(calls);
  }

  openPages(numPages: number, precision: KvPrecision, numStates = 0): KernelPages {
    this.#checkOpen();
    const type = KV_PRECISIONS.indexOf(precision);
    const handle = this.#calls.exports.open_pages(this.#handle, numPages, numStates, type);
    if (handle === 0) throw new RangeError("memory for pages");
    return new WasmPages(this.#calls, handle, numPages);
  }

  setAngles(angleSet: number, position: number, angles: Float32Array): void {
    this.#checkOpen();
    const at = this.#room.request.of(angles.byteLength);
    new Float32Array(this.#calls.memory.buffer, at, angles.length).set(angles);
    this.#calls.check(this.#calls.exports.rotary(this.#handle, angleSet, position, at, angles.length));
  }

  step(pages: KernelPages, request: Int32Array, results: StepResults): void {
    this.#begin("step", pages, request, results);
    this.#room.read(results);
  }

  beginStep(pages: KernelPages, request: Int32Array, results: StepResults): void {
    this.#begin("begin", pages, request, results);
    this.#begun = { pages: pages as WasmPages, results };
  }

  runLayers(from: number, to: number): void {
    this.#resultsOfBegun();
    this.#calls.check(this.#calls.exports.run_layers(this.#handle, from, to));
  }

  routeLayer(layer: number): Int32Array {
    this.#resultsOfBegun();
    const { exports, memory } = this.#calls;
    this.#calls.check(exports.route_layer(this.#handle, layer));
    this.#lengthAt ||= this.#calls.allocate(4);
    const at = exports.chosen(this.#handle, this.#lengthAt) >>> 0;
    const [length = 0] = new Uint32Array(memory.buffer, this.#lengthAt, 1);
    return new Int32Array(memory.buffer, at, length).slice();
  }

  feedLayer(layer: number): void {
    this.#resultsOfBegun();
    this.#calls.check(this.#calls.exports.feed_layer(this.#handle, layer));
  }

  endStep(): void {
    const results = this.#resultsOfBegun();
    this.#calls.check(this.#calls.exports.end(this.#handle));
    this.#room.read(results);
    this.#begun = undefined;
  }

  writeStream(rows: Float32Array): void {
    this.#resultsOfBegun();
    const { exports, memory } = this.#calls;
    const at = this.#room.states.of(rows.byteLength);
    new Float32Array(memory.buffer, at, rows.length).set(rows);
    this.#calls.check(exports.write_stream(this.#handle, at, rows.length));
  }

  readStates(states: LayerStates, rows: Float32Array): void {
    this.#checkOpen();
    const { exports, memory } = this.#calls;
    const at = this.#room.states.of(rows.byteLength);
    const room = (): Float32Array => new Float32Array(memory.buffer, at, rows.length);
    // Rows that were not computed stay as they are.
    room().set(rows);
    this.#calls.check(exports.read_states(this.#handle, LAYER_STATES.indexOf(states), at, rows.length));
    rows.set(room());
  }

  tapLayers(layers: readonly number[]): void {
    this.#checkOpen();
    this.#begun = undefined;
    const at = this.#room.states.of(4 * layers.length);
    new Int32Array(this.#calls.memory.buffer, at, layers.length).set(layers);
    this.#calls.check(this.#calls.exports.tap(this.#handle, at, layers.length));
  }

  readEmbeddings(tokenIds: Int32Array, rows: Float32Array): void {
    this.#checkOpen();
    const { exports, memory } = this.#calls;
    const at = this.#room.states.of(tokenIds.byteLength + rows.byteLength);
    const rowsAt = at + tokenIds.byteLength;
    new Int32Array(memory.buffer, at, tokenIds.length).set(tokenIds);
    this.#calls.check(exports.read_embeddings(this.#handle, at, tokenIds.length, rowsAt, rows.length));
    rows.set(new Float32Array(memory.buffer, rowsAt, rows.length));
  }

  readTaps(rows: Float32Array): void {
    this.#checkOpen();
    const at = this.#room.states.of(rows.byteLength);
    this.#calls.check(this.#calls.exports.read_taps(this.#handle, at, rows.length));
    rows.set(new Float32Array(this.#calls.memory.buffer, at, rows.length));
  }

  /** @throws {TypeError | RangeError} when no step has begun, its pages are closed, or its results have no room now */
  #resultsOfBegun(): StepResults {
    this.#checkOpen();
    if (!this.#begun) throw new RangeError("a step that has begun");
    const { pages, results } = this.#begun;
    pages.handleIn(this.#calls);
    this.#room.check(results);
    return results;
  }

  placeUnit(layer: number, expert: number, unit?: Uint8Array): void {
    this.#checkOpen();
    const { buffer } = this.#calls.memory;
    // Memory that has grown has another object over the same bytes.
    if (unit && !(unit.buffer instanceof SharedArrayBuffer && unit.byteOffset + unit.byteLength <= buffer.byteLength)) {
      throw new TypeError("Expected `unit` to be memory that `newUnit` gave");
    }
    const { byteOffset = 0, byteLength = 0 } = unit ?? {};
    this.#calls.check(this.#calls.exports.place(this.#handle, layer, expert, byteOffset, byteLength));
  }

  placeLora(slot: number, lora: Uint8Array | undefined): void {
    this.#checkOpen();
    const { exports, memory } = this.#calls;
    const at = lora ? this.#calls.allocate(lora.length) : 0;
    if (lora) new Uint8Array(memory.buffer, at, lora.length).set(lora);
    try {
      this.#calls.check(exports.place_lora(this.#handle, slot, at, lora?.length ?? 0));
    } catch (error) {
      exports.release(at);
      throw error;
    }
    exports.release(this.#loras.get(slot) ?? 0);
    if (lora) this.#loras.set(slot, at);
    else this.#loras.delete(slot);
  }

  newUnit(bytes: number): Uint8Array {
    this.#checkOpen();
    // Allocating may grow the memory, which then has another buffer.
    const at = this.#calls.allocate(bytes);
    return new Uint8Array(this.#calls.memory.buffer, at, bytes);
  }

  #begin(name: "step" | "begin", pages: KernelPages, request: Int32Array, results: StepResults): void {
    this.#checkOpen();
    const handle = (pages as WasmPages).handleIn(this.#calls);
    this.#begun = undefined;
    const { requestAt, resultsAt } = this.#room.write(request, results);
    this.#calls.check(this.#calls.exports[name](this.#handle, handle, requestAt, request.length, resultsAt));
  }

  readLogits(wanted: number, logits: Float32Array): boolean {
    this.#checkOpen();
    if (this.#calls.exports.keeps_logits(this.#handle, wanted) === 0) return false;
    const at = this.#room.full.of(logits.byteLength);
    this.#calls.check(this.#calls.exports.read_logits(this.#handle, wanted, at, logits.length));
    logits.set(new Float32Array(this.#calls.memory.buffer, at, logits.length));
    return true;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#calls.exports.close(this.#handle);
    // Workers return by themselves when the kernel ends; this waits for them.
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new TypeError("Expected a kernel that is open");
  }
}

// A step's request and results in the memory of WebAssembly.

const REQUEST_HEADER = 6;
/** Largest number in a request's header. */
const MAX_COUNT = 2 ** 28;

/** Memory that grows to the largest requested size. */
class Room {
  readonly #calls: WasmCalls;
  #at = 0;
  #bytes = 0;

  constructor(calls: WasmCalls) {
    this.#calls = calls;
  }

  of(bytes: number): number {
    if (bytes > this.#bytes) {
      // The old memory is lost, so it grows by half at least.
      const wanted = Math.max(bytes, Math.ceil(this.#bytes * 1.5), WASM_PAGE_BYTES);
      this.#at = this.#calls.allocate(wanted);
      this.#bytes = wanted;
    }
    return this.#at;
  }
}

/** Memory of one step's request and results, used again by the next step. */
class StepRoom {
  readonly request: Room;
  readonly full: Room;
  readonly states: Room;
  readonly #ids: Room;
  readonly #logits: Room;
  readonly #calls: WasmCalls;
  #places = { ids: 0, logits: 0, sums: 0, full: 0, squares: 0, numWanted: 0, numLogits: 0, numFull: 0, numSquares: 0 };

  constructor(calls: WasmCalls) {
    this.#calls = calls;
    [this.request, this.full, this.states] = [new Room(calls), new Room(calls), new Room(calls)];
    [this.#ids, this.#logits] = [new Room(calls), new Room(calls)];
  }

  /** Writes a request, and the addresses of its results. @throws {RangeError} on an invalid step */
  write(request: Int32Array, results: StepResults): { readonly requestAt: number; readonly resultsAt: number } {
    const { memory } = this.#calls;
    const header = Array.from(request.subarray(0, REQUEST_HEADER));
    const isHeader = header.length === REQUEST_HEADER && header.every((count) => count >= 0 && count <= MAX_COUNT);
    if (!isHeader) throw new RangeError("the request's header");
    const numWanted = request[2]!;
    const numLogits = numWanted * (request[3]! + 1);
    const [numFull, numSquares] = [results.fullLogits.length, results.inputSquares?.length ?? 0];
    checkRoom(results, { numWanted, numLogits, numFull, numSquares });
    // Addresses and lengths of results, then the sums, then the request.
    const resultsAt = this.request.of(64 + 16 * numWanted + request.byteLength);
    const ids = this.#ids.of(4 * numLogits);
    const logits = this.#logits.of(4 * numLogits);
    const full = this.full.of(4 * (numFull + numSquares));
    const squares = full + 4 * numFull;
    const sums = resultsAt + 64;
    const requestAt = sums + 16 * numWanted;
    new Int32Array(memory.buffer, requestAt, request.length).set(request);
    const places = [ids, numLogits, logits, numLogits, sums, 2 * numWanted, full, numFull, squares, numSquares];
    new Uint32Array(memory.buffer, resultsAt, places.length).set(places);
    this.#places = { ids, logits, sums, full, squares, numWanted, numLogits, numFull, numSquares };
    return { requestAt, resultsAt };
  }

  /** Checks that there is still room for the last request's results. @throws {RangeError} if not */
  check(results: StepResults): void {
    checkRoom(results, this.#places);
  }

  /** Copies the results of the last written request. */
  read(results: StepResults): void {
    const { buffer } = this.#calls.memory;
    const { ids, logits, sums, full, squares, numWanted, numLogits, numFull, numSquares } = this.#places;
    results.candidateIds.set(new Int32Array(buffer, ids, numLogits - numWanted));
    results.logits.set(new Float32Array(buffer, logits, numLogits));
    results.sums.set(new Float64Array(buffer, sums, 2 * numWanted));
    results.fullLogits.set(new Float32Array(buffer, full, numFull));
    results.inputSquares?.set(new Float32Array(buffer, squares, numSquares));
  }
}

interface ResultCounts {
  readonly numWanted: number;
  readonly numLogits: number;
  readonly numFull: number;
  readonly numSquares: number;
}

/** @throws {RangeError} when the arrays are too short */
function checkRoom(results: StepResults, { numWanted, numLogits, numFull, numSquares }: ResultCounts): void {
  const { candidateIds, logits, sums, fullLogits, inputSquares } = results;
  const isRoom =
    candidateIds.length >= numLogits - numWanted &&
    logits.length >= numLogits &&
    sums.length >= 2 * numWanted &&
    fullLogits.length >= numFull;
  if (!isRoom) throw new RangeError("room for the results");
  if ((inputSquares?.length ?? 0) !== numSquares) throw new RangeError("room for the inputs' squares");
}
