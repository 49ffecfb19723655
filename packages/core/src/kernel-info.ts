/** Build of the kernel that runs a model's steps. */
export interface KernelInfo {
  /** An addon of this platform, or WebAssembly. */
  readonly kind: "native" | "wasm";
  /** Instructions that its loops use, such as "avx512-vnni" or "wasm-simd". */
  readonly instructions: string;
  readonly threads: number;
  /** Why it is WebAssembly, where nobody chose it. */
  readonly fallbackReason?: string | undefined;
}
