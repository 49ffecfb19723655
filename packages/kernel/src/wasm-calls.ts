// The functions of the WebAssembly module, and memory for their arguments and results.

import { readFileSync } from "node:fs";

/** Exports of `native/wasm.c`; pointers and sizes are numbers. */
interface WasmExports {
  use_stack(stack: number): void;
  allocate(bytes: number): number;
  open(file: number, bytes: number, options: number, isPlain: number): number;
  open_pages(kernel: number, numPages: number, numStates: number, type: number): number;
  close_pages(pages: number): void;
  read_page(pages: number, page: number, bytes: number, length: number): number;
  write_page: WasmExports["read_page"];
  rotary(kernel: number, angleSet: number, position: number, angles: number, length: number): number;
  step(kernel: number, pages: number, request: number, length: number, results: number): number;
  begin: WasmExports["step"];
  run_layers(kernel: number, from: number, to: number): number;
  route_layer(kernel: number, layer: number): number;
  chosen(kernel: number, length: number): number;
  feed_layer(kernel: number, layer: number): number;
  end(kernel: number): number;
  write_stream(kernel: number, rows: number, length: number): number;
  read_states(kernel: number, states: number, rows: number, length: number): number;
  tap(kernel: number, layers: number, count: number): number;
  read_embeddings(kernel: number, tokens: number, count: number, rows: number, length: number): number;
  read_taps(kernel: number, rows: number, length: number): number;
  place(kernel: number, layer: number, expert: number, unit: number, bytes: number): number;
  place_lora(kernel: number, slot: number, bytes: number, length: number): number;
  release(memory: number): void;
  keeps_logits(kernel: number, wanted: number): number;
  read_logits(kernel: number, wanted: number, logits: number, length: number): number;
  reason(): number;
  pack_rows(rows: number, length: number): number;
  close(kernel: number): void;
}

export const WASM_PAGE_BYTES = 65_536;
// 4 GiB, the limit of 32-bit addresses; memory is allocated as it grows.
const MAX_WASM_PAGES = 65_535;
const MAX_BYTES = MAX_WASM_PAGES * WASM_PAGE_BYTES;

/** Number of pages of a module's own data and stack. */
export const FIRST_PAGES = 64;

export function newMemory(maximum: number): WasmMemory {
  return new webAssembly.Memory({ initial: FIRST_PAGES, maximum, shared: true });
}

export function readModule(instructions: string): Uint8Array<ArrayBuffer> {
  const name = instructions === "wasm-relaxed-simd" ? "kernel-relaxed.wasm" : "kernel.wasm";
  return new Uint8Array(readFileSync(new URL(`../prebuilt/${name}`, import.meta.url)));
}

/** Opens the module with these instructions, with memory of its own. */
export function openModule(instructions: string): { readonly module: WasmModule; readonly calls: WasmCalls } {
  const module = new webAssembly.Module(readModule(instructions));
  const memory = newMemory(MAX_WASM_PAGES);
  const { exports } = new webAssembly.Instance(module, { env: { memory } });
  return { module, calls: new WasmCalls(exports as unknown as WasmExports, memory) };
}

/** The module's functions, with memory for their arguments and results. */
export class WasmCalls {
  readonly exports: WasmExports;
  readonly memory: WasmMemory;

  constructor(exports: WasmExports, memory: WasmMemory) {
    this.exports = exports;
    this.memory = memory;
  }

  /** @throws {RangeError} when there is not enough memory */
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

  /** @throws {RangeError} with the reason, if there is one */
  check(reason: number): void {
    if (reason !== 0) throw new RangeError(this.textAt(reason));
  }
}

// The part of WebAssembly's interface that the kernel uses. Node has it, but its types leave it to browsers.

interface WasmModule {
  readonly [Symbol.toStringTag]: string;
}

export interface WasmMemory {
  /** A new object each time that memory has grown. */
  readonly buffer: SharedArrayBuffer;
}

interface WebAssemblyInterface {
  readonly Module: new (bytes: Uint8Array) => WasmModule;
  readonly Memory: new (size: {
    readonly initial: number;
    readonly maximum: number;
    readonly shared: boolean;
  }) => WasmMemory;
  readonly Instance: new (
    module: WasmModule,
    imports: { readonly env: { readonly memory: WasmMemory } },
  ) => { readonly exports: Readonly<Record<string, unknown>> };
  validate(bytes: Uint8Array): boolean;
}

export const webAssembly: WebAssemblyInterface = (globalThis as unknown as { WebAssembly: WebAssemblyInterface })
  .WebAssembly;
