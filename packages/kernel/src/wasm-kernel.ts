// The kernel as WebAssembly: its memory is shared with worker threads, which take part in steps.

import { closeSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import { Worker } from "node:worker_threads";
import type { KernelInfo } from "@readme-moe/core";
import type { Kernel, KernelPages, KernelSizes, StepResults } from "./kernel.ts";
import { webAssembly, type WasmMemory } from "./web-assembly.ts";

/** What `native/wasm.c` exports; pointers and sizes are numbers. */
interface Exports {
  use_stack(stack: number): void;
  allocate(bytes: number): number;
  open(file: number, bytes: number, options: number, isPlain: number): number;
  open_pages(kernel: number, numPages: number, isHalf: number): number;
  close_pages(pages: number): void;
  rotary(kernel: number, rotary: number, position: number, angles: number, length: number): number;
  step(kernel: number, pages: number, request: number, length: number, results: number): number;
  keeps_logits(kernel: number, wanted: number): number;
  read_logits(kernel: number, wanted: number, logits: number, length: number): number;
  reason(): number;
  close(kernel: number): void;
}

/** What the module with relaxed SIMD exports besides. */
interface RelaxedExports {
  has_exact_product(): number;
}

const PAGE_BYTES = 65_536;
/** Pages of a module's own data and stack. */
const FIRST_PAGES = 64;
const STACK_BYTES = 1 << 20;
// 4 GiB, all that 32-bit addresses reach; memory is taken as it grows.
const MAX_PAGES = 65_535;
const MAX_BYTES = MAX_PAGES * PAGE_BYTES;
const REQUEST_HEADER = 6;
/** What no number of a request's header is above. */
const MAX_COUNT = 2 ** 28;
const READ_BYTES = 1 << 24;

// Runs as it stands, whatever compiles or bundles the packages: a thread takes part in steps until the kernel is closed.
const WORKER = `
const { module, memory, kernel, thread, stack } = require("node:worker_threads").workerData;
const { exports } = new WebAssembly.Instance(module, { env: { memory } });
exports.use_stack(stack);
exports.help(kernel, thread);
`;

let relaxedIsExact: boolean | undefined;

/** Names the module that runs here: the one with relaxed SIMD where the engine's product is exact. */
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

function newMemory(maximum: number): WasmMemory {
  return new webAssembly.Memory({ initial: FIRST_PAGES, maximum, shared: true });
}

/**
 * Opens a packed file in WebAssembly; reads it into memory.
 *
 * @param weights - the file's path, or its bytes
 * @param instructions - one of those that are available: "plain" are the loops without vectors
 * @throws {RangeError} when the file is not sound, or memory ends
 */
export function openWasm(weights: string | Uint8Array, instructions: string, sizes: KernelSizes): Kernel {
  const module = new webAssembly.Module(readModule(instructions));
  const memory = newMemory(MAX_PAGES);
  const { exports } = new webAssembly.Instance(module, { env: { memory } });
  const calls = new Calls(exports as unknown as Exports, memory);
  const numBytes = typeof weights === "string" ? sizeOf(weights) : weights.byteLength;
  const file = calls.allocate(numBytes);
  readInto(memory, file, weights);
  const options = calls.allocate(12);
  new Int32Array(memory.buffer, options, 3).set([sizes.threads, sizes.maxRows, sizes.maxPositions]);
  const handle = calls.exports.open(file, numBytes, options, instructions === "plain" ? 1 : 0);
  if (handle === 0) throw new RangeError(calls.textAt(calls.exports.reason()));
  const workers = Array.from({ length: sizes.threads - 1 }, (_, index) => {
    const stack = calls.allocate(STACK_BYTES) + STACK_BYTES;
    const workerData = { module, memory, kernel: handle, thread: index + 1, stack };
    const worker = new Worker(WORKER, { eval: true, workerData });
    // A kernel that nobody closes must not keep the process.
    worker.unref();
    return worker;
  });
  return new WasmKernel(calls, handle, workers, { kind: "wasm", instructions, threads: sizes.threads });
}

function readModule(instructions: string): Uint8Array<ArrayBuffer> {
  const name = instructions === "wasm-relaxed-simd" ? "kernel-relaxed.wasm" : "kernel.wasm";
  return new Uint8Array(readFileSync(new URL(`../prebuilt/${name}`, import.meta.url)));
}

function sizeOf(path: string): number {
  const file = openSync(path, "r");
  try {
    return fstatSync(file).size;
  } finally {
    closeSync(file);
  }
}

function readInto(memory: WasmMemory, at: number, weights: string | Uint8Array): void {
  if (typeof weights !== "string") {
    new Uint8Array(memory.buffer, at, weights.byteLength).set(weights);
    return;
  }
  const file = openSync(weights, "r");
  try {
    const end = at + fstatSync(file).size;
    for (let from = at; from < end;) {
      const into = new Uint8Array(memory.buffer, from, Math.min(READ_BYTES, end - from));
      const numRead = readSync(file, into);
      if (numRead === 0) throw new RangeError("the file's length");
      from += numRead;
    }
  } finally {
    closeSync(file);
  }
}

/** The module's functions, with memory for what they take and give. */
class Calls {
  readonly exports: Exports;
  readonly memory: WasmMemory;

  constructor(exports: Exports, memory: WasmMemory) {
    this.exports = exports;
    this.memory = memory;
  }

  /** @throws {RangeError} when memory ends */
  allocate(bytes: number): number {
    const at = bytes > MAX_BYTES ? 0 : this.exports.allocate(bytes) >>> 0;
    if (at === 0) throw new RangeError(`Expected at most 4 GiB of memory in WebAssembly, got ${bytes} bytes more`);
    return at;
  }

  textAt(pointer: number): string {
    const bytes = new Uint8Array(this.memory.buffer);
    let end = pointer;
    while (bytes[end] !== 0) end++;
    return Buffer.from(bytes.slice(pointer, end)).toString();
  }

  /** @throws {RangeError} with the reason, where there is one */
  check(reason: number): void {
    if (reason !== 0) throw new RangeError(this.textAt(reason));
  }
}

class WasmPages implements KernelPages {
  readonly numPages: number;
  readonly #calls: Calls;
  #handle: number;

  constructor(calls: Calls, handle: number, numPages: number) {
    this.#calls = calls;
    this.#handle = handle;
    this.numPages = numPages;
  }

  /** @throws {TypeError} when they are closed, or in another kernel's memory */
  handleIn(calls: Calls): number {
    if (this.#handle === 0 || this.#calls !== calls) throw new TypeError("Expected pages of this kernel that are open");
    return this.#handle;
  }

  close(): void {
    if (this.#handle !== 0) this.#calls.exports.close_pages(this.#handle);
    this.#handle = 0;
  }
}

/** Memory that grows to the largest piece that was asked for. */
class Room {
  readonly #calls: Calls;
  #at = 0;
  #bytes = 0;

  constructor(calls: Calls) {
    this.#calls = calls;
  }

  of(bytes: number): number {
    if (bytes > this.#bytes) {
      // What it grows out of is lost, so it grows by half at least.
      const wanted = Math.max(bytes, Math.ceil(this.#bytes * 1.5), PAGE_BYTES);
      this.#at = this.#calls.allocate(wanted);
      this.#bytes = wanted;
    }
    return this.#at;
  }
}

class WasmKernel implements Kernel {
  readonly info: KernelInfo;
  readonly #calls: Calls;
  readonly #handle: number;
  readonly #workers: readonly Worker[];
  #isClosed = false;
  readonly #rooms: { readonly request: Room; readonly ids: Room; readonly logits: Room; readonly full: Room };

  constructor(calls: Calls, handle: number, workers: readonly Worker[], info: KernelInfo) {
    this.#calls = calls;
    this.#handle = handle;
    this.#workers = workers;
    this.info = info;
    const [request, ids, logits, full] = [new Room(calls), new Room(calls), new Room(calls), new Room(calls)];
    this.#rooms = { request, ids, logits, full };
  }

  openPages(numPages: number, isHalf: boolean): KernelPages {
    this.#checkOpen();
    const handle = this.#calls.exports.open_pages(this.#handle, numPages, isHalf ? 1 : 0);
    if (handle === 0) throw new RangeError("memory for pages");
    return new WasmPages(this.#calls, handle, numPages);
  }

  setAngles(rotary: number, position: number, angles: Float32Array): void {
    this.#checkOpen();
    const at = this.#rooms.request.of(angles.byteLength);
    new Float32Array(this.#calls.memory.buffer, at, angles.length).set(angles);
    this.#calls.check(this.#calls.exports.rotary(this.#handle, rotary, position, at, angles.length));
  }

  step(pages: KernelPages, request: Int32Array, results: StepResults): void {
    this.#checkOpen();
    const { memory, exports } = this.#calls;
    const handle = (pages as WasmPages).handleIn(this.#calls);
    const header = Array.from(request.subarray(0, REQUEST_HEADER));
    const isHeader = header.length === REQUEST_HEADER && header.every((count) => count >= 0 && count <= MAX_COUNT);
    if (!isHeader) throw new RangeError("the request's header");
    const numWanted = request[2] as number;
    const numLogits = numWanted * ((request[3] as number) + 1);
    const { candidateIds, logits: someLogits, sums: someSums, fullLogits, inputSquares } = results;
    const [numFull, numSquares] = [fullLogits.length, inputSquares?.length ?? 0];
    if (
      candidateIds.length < numLogits - numWanted ||
      someLogits.length < numLogits ||
      someSums.length < 2 * numWanted
    ) {
      throw new RangeError("room for the results");
    }
    // Results' addresses and lengths, then the sums, then the request.
    const at = this.#rooms.request.of(64 + 16 * numWanted + request.byteLength);
    const ids = this.#rooms.ids.of(4 * numLogits);
    const logits = this.#rooms.logits.of(4 * numLogits);
    const full = this.#rooms.full.of(4 * (numFull + numSquares));
    const squares = full + 4 * numFull;
    const sums = at + 64;
    const requestAt = sums + 16 * numWanted;
    new Int32Array(memory.buffer, requestAt, request.length).set(request);
    const places = [ids, numLogits, logits, numLogits, sums, 2 * numWanted, full, numFull, squares, numSquares];
    new Uint32Array(memory.buffer, at, places.length).set(places);
    const reason = exports.step(this.#handle, handle, requestAt, request.length, at);
    this.#calls.check(reason);
    results.candidateIds.set(new Int32Array(memory.buffer, ids, numLogits - numWanted));
    results.logits.set(new Float32Array(memory.buffer, logits, numLogits));
    results.sums.set(new Float64Array(memory.buffer, sums, 2 * numWanted));
    if (numFull > 0) fullLogits.set(new Float32Array(memory.buffer, full, numFull));
    inputSquares?.set(new Float32Array(memory.buffer, squares, numSquares));
  }

  readLogits(wanted: number, logits: Float32Array): boolean {
    this.#checkOpen();
    if (this.#calls.exports.keeps_logits(this.#handle, wanted) === 0) return false;
    const at = this.#rooms.full.of(logits.byteLength);
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
