/** Build of the kernel that runs a model's steps. */
export interface KernelInfo {
  /** An addon of this platform, or WebAssembly. */
  readonly kind: "native" | "wasm";
  /** Instruction set that its loops use, such as "avx512-vnni" or "wasm-simd". */
  readonly instructions: string;
  readonly threads: number;
  /** Reason why it is WebAssembly, unless it was chosen. */
  readonly fallbackReason?: string | undefined;
}
