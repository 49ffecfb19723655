// Chooses the build that runs here: an addon if there is one, else WebAssembly.

import { choiceOption, describeValue, type KernelInfo, ReadMeError } from "@readme-moe/core";
import type { Kernel, KernelKind, KernelSizes } from "./kernel.ts";
import { loadAddon, NativeWeights, openNative, type Addon } from "./native-kernel.ts";
import { fill, packedBytes } from "./pack/packed-file.ts";
import type { PackedPiece } from "./pack/packed-tensor.ts";
import { openWasm, wasmInstructions } from "./wasm-kernel.ts";

/** Choice of the build and of the loops. */
export interface KernelChoice {
  /** @default `README_MOE_KERNEL`, else an addon if one loads, else WebAssembly */
  readonly kernel?: KernelKind | undefined;
  /** One of `availableInstructions`, for tests and measurements. @default the fastest */
  readonly instructions?: string | undefined;
}

/** Lists the instructions that kernels of a kind can use here, the fastest first. */
export function availableInstructions(kind: KernelKind): readonly string[] {
  return instructionsOf(kind === "native" ? loadAddon() : undefined);
}

function instructionsOf(addon: Addon | undefined): readonly string[] {
  if (addon) return addon.instructionSets();
  const fastest = wasmInstructions();
  return fastest === "wasm-simd" ? ["wasm-simd", "plain"] : [fastest, "wasm-simd", "plain"];
}

/** Returns the build and the instructions that a kernel would use here, without opening one. */
export function kernelInfo(choice: KernelChoice, threads: number): KernelInfo {
  const { kind, addon, fallbackReason } = choose(choice);
  return { kind, instructions: wantedInstructions(choice, instructionsOf(addon)), threads, fallbackReason };
}

/**
 * Opens a packed file.
 *
 * @param weights - the file's path, its bytes, or memory of the addon
 * @throws {TypeError} on an unknown kind or unknown instructions
 * @throws {ReadMeError} `ERR_RUNTIME` when a required addon does not load, or the file cannot be opened
 */
export function openKernel(
  weights: string | Uint8Array | NativeWeights,
  sizes: KernelSizes,
  choice: KernelChoice = {},
): Kernel {
  const { addon, fallbackReason } = choose(choice);
  try {
    if (addon) return openNative(addon, weights, wantedInstructions(choice, addon.instructionSets()), sizes);
    if (weights instanceof NativeWeights) throw new TypeError("Expected a path or bytes in WebAssembly");
    const kernel = openWasm(weights, wantedInstructions(choice, instructionsOf(undefined)), sizes);
    return fallbackReason === undefined ? kernel : Object.assign(kernel, { info: { ...kernel.info, fallbackReason } });
  } catch (error) {
    if (error instanceof TypeError) throw error;
    const message = `The model cannot be opened in the kernel: ${error instanceof Error ? error.message : describeValue(error)}`;
    throw new ReadMeError("ERR_RUNTIME", message, { cause: error });
  }
}

/** Packs a file into memory of the build that runs here: of the addon, or bytes that WebAssembly copies. */
export async function packIntoMemory(
  numBytes: number,
  pieces: AsyncIterable<PackedPiece>,
  choice: KernelChoice & Pick<KernelSizes, "threads">,
): Promise<Uint8Array | NativeWeights> {
  const { addon } = choose(choice);
  if (addon) return NativeWeights.fill(addon, numBytes, pieces, choice.threads);
  return fill(new Uint8Array(numBytes), packedBytes(pieces));
}

interface Chosen {
  readonly kind: KernelKind;
  readonly addon: Addon | undefined;
  readonly fallbackReason: string | undefined;
}

function choose({ kernel: kind = fromEnvironment() }: KernelChoice): Chosen {
  if (kind !== undefined) choiceOption("kernel", kind, ["native", "wasm"] as const);
  if (kind === "wasm") return { kind, addon: undefined, fallbackReason: undefined };
  try {
    return { kind: "native", addon: loadAddon(), fallbackReason: undefined };
  } catch (error) {
    const [reason = ""] = (error instanceof Error ? error.message : String(error)).split("\n");
    if (kind === "native") throw new ReadMeError("ERR_RUNTIME", `The addon does not load: ${reason}`, { cause: error });
    return { kind: "wasm", addon: undefined, fallbackReason: reason };
  }
}

function fromEnvironment(): KernelKind | undefined {
  const value = process.env["README_MOE_KERNEL"];
  return value === undefined || value === ""
    ? undefined
    : choiceOption("README_MOE_KERNEL", value as KernelKind, ["native", "wasm"] as const);
}

/** Returns the instructions of a choice, by default the first of the available ones. */
function wantedInstructions({ instructions }: KernelChoice, available: readonly string[]): string {
  return choiceOption("instructions", instructions ?? available[0] ?? "plain", available);
}
