// What the kernel's binaries are made of and how. The same recipe gives the same bytes on every machine.

/** The only compiler, pinned with the hashes of its packages for Linux, macOS and Windows. */
export const COMPILER = {
  name: "ziglang",
  version: "0.17.1",
  hashes: [
    "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
    "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e",
    "09953b6af7f64168b915180a42774f520f92d86ef6331b28e33915c7e1f0bb23",
    "4e0b4b9c02b8d0d220e9948010f860b62ff11d96abb39762eca5fa2ef3f7bc97",
    "69c3dfc3aff6a297ec4017aa904782c0e450eb988982d7f675d83edce27526fb",
  ],
} as const;

/** Files of `packages/kernel/native` without their ending; `loops.c` is compiled once for each instruction set. */
export const SOURCES = {
  common: [
    "attend",
    "candidates",
    "loras",
    "check_step",
    "results",
    "feed_forward",
    "group",
    "latent",
    "mixture",
    "multiply",
    "observe",
    "open",
    "pack_blocks",
    "pack_rows",
    "pages",
    "platform",
    "processor",
    "reader",
    "request",
    "recur",
    "rows_product",
    "step",
    "stream",
    "team",
    "units",
  ],
  addon: ["addon", "map_file", "read_rows"],
  wasm: ["wasm"],
  loops: "loops",
} as const;

/** Flags of every compilation: products and sums are rounded where the source says so. */
export const C_FLAGS: readonly string[] = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"];

/** One compilation of `loops.c`. */
export interface LoopsBuild {
  readonly name: string;
  readonly flags: readonly string[];
  /**
   * Vector registers that an inner loop may store for each of its dot products, where the sums of a tile fill all
   * registers; undefined for loops without an instruction for such products.
   */
  readonly mostStores?: number;
}

const PLAIN: LoopsBuild = { name: "loops-plain", flags: [] };

/** The instruction sets of x64, the fastest first. */
export const X64_LOOPS: readonly LoopsBuild[] = [
  {
    name: "loops-avx512",
    mostStores: 1 / 8,
    flags: [
      "-DLOOPS_AVX512",
      "-mavx512f",
      "-mavx512bw",
      "-mavx512vl",
      "-mavx512dq",
      "-mavx512vnni",
      "-mfma",
      "-mf16c",
      "-mavx2",
    ],
  },
  {
    name: "loops-avx-vnni",
    mostStores: 1 / 24,
    flags: ["-DLOOPS_AVX_VNNI", "-mfma", "-mf16c", "-mavx2", "-mavxvnni"],
  },
  { name: "loops-avx2", mostStores: 0, flags: ["-DLOOPS_AVX2", "-mfma", "-mf16c", "-mavx2"] },
  PLAIN,
];

/** The instruction sets of arm64, the fastest first. */
export const ARM64_LOOPS: readonly LoopsBuild[] = [
  { name: "loops-neon-dot", mostStores: 0, flags: ["-DLOOPS_NEON_DOT", "-mcpu=generic+dotprod"] },
  { name: "loops-neon", mostStores: 1 / 8, flags: ["-DLOOPS_NEON"] },
  PLAIN,
];

/** One binary. */
export interface Target {
  /** Path below `packages/kernel/prebuilt`. */
  readonly output: string;
  /** Flags of compiling and of linking. */
  readonly machine: readonly string[];
  readonly sources: readonly string[];
  readonly loops: readonly LoopsBuild[];
  readonly compile: readonly string[];
  readonly link: readonly string[];
  /** Whether Node's functions come from an import library. */
  readonly hasImportLibrary?: boolean;
}

const ADDON = {
  sources: [...SOURCES.common, ...SOURCES.addon],
  compile: ["-fPIC", "-fvisibility=hidden"],
  link: ["-shared"],
} as const;

const WASM = {
  sources: [...SOURCES.common, ...SOURCES.wasm],
  machine: [
    "-target",
    "wasm32-freestanding",
    "-msimd128",
    "-matomics",
    "-mbulk-memory",
    "-mbulk-memory-opt",
    "-mnontrapping-fptoint",
  ],
  link: [
    "-nostdlib",
    "-Wl,--no-entry,--import-memory,--shared-memory,--max-memory=4294901760",
    "-Wl,-z,stack-size=1048576",
  ],
} as const;

const RELAXED = ["-DUSE_RELAXED", "-mrelaxed-simd"];

export const TARGETS: readonly Target[] = [
  {
    ...ADDON,
    output: "linux-x64/kernel.node",
    machine: ["-target", "x86_64-linux-gnu.2.28", "-mcpu=x86_64"],
    loops: X64_LOOPS,
    link: [...ADDON.link, "-lpthread", "-lm"],
  },
  {
    ...ADDON,
    output: "linux-arm64/kernel.node",
    machine: ["-target", "aarch64-linux-gnu.2.28", "-mcpu=generic"],
    loops: ARM64_LOOPS,
    link: [...ADDON.link, "-lpthread", "-lm"],
  },
  {
    ...ADDON,
    output: "darwin-x64/kernel.node",
    machine: ["-target", "x86_64-macos.11.0", "-mcpu=x86_64"],
    loops: X64_LOOPS,
    link: [...ADDON.link, "-undefined", "dynamic_lookup"],
  },
  {
    ...ADDON,
    output: "darwin-arm64/kernel.node",
    machine: ["-target", "aarch64-macos.11.0", "-mcpu=generic"],
    loops: ARM64_LOOPS,
    link: [...ADDON.link, "-undefined", "dynamic_lookup"],
  },
  {
    ...ADDON,
    output: "win32-x64/kernel.node",
    machine: ["-target", "x86_64-windows-gnu", "-mcpu=x86_64"],
    loops: X64_LOOPS,
    // A hash of the content stands where a time would.
    link: [...ADDON.link, "-Wl,/Brepro"],
    hasImportLibrary: true,
  },
  {
    ...WASM,
    output: "kernel.wasm",
    loops: [{ name: "loops-simd", flags: ["-DLOOPS_WASM"] }, PLAIN],
    compile: [],
  },
  {
    ...WASM,
    output: "kernel-relaxed.wasm",
    machine: [...WASM.machine, ...RELAXED],
    loops: [{ name: "loops-simd", flags: ["-DLOOPS_WASM"] }, PLAIN],
    compile: [],
  },
];
