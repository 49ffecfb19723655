// Types of the part of WebAssembly that the kernel uses, which Node's types do not have.

/** Handle of a compiled module. */
interface WasmModule {
  readonly [Symbol.toStringTag]: string;
}

export interface WasmMemory {
  /** Another object each time after memory has grown. */
  readonly buffer: SharedArrayBuffer;
}

interface WasmInstance {
  readonly exports: Readonly<Record<string, unknown>>;
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
  ) => WasmInstance;
  validate(bytes: Uint8Array): boolean;
}

export const webAssembly: WebAssemblyInterface = (globalThis as unknown as { WebAssembly: WebAssemblyInterface })
  .WebAssembly;
