// Chooses the build that runs here: an addon if there is one, else WebAssembly.

import { type FileHandle, open } from "node:fs/promises";
import { choiceOption, describeValue, type KernelInfo, messageOf, ReadMeError } from "@readme-moe/core";
import { isWholeData } from "@readme-moe/model";
import type { DecoderDescription } from "./description.ts";
import type { Kernel, KernelKind, KernelSizes } from "./kernel.ts";
import { type Addon, loadAddon, NativeWeights, openNative } from "./native-kernel.ts";
import { fill, layOut, packedBytes, packedPieces, packedWeights, type PackOptions } from "./pack/packed-file.ts";
import type { PackedPiece } from "./pack/block-types.ts";
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
async function packIntoMemory(
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
    const [reason = ""] = messageOf(error).split("\n");
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

/** Options of `openCachedKernel`. */
export interface CachedKernelOptions extends PackOptions, KernelChoice {
  /**
   * Packs weights into memory, without a file in the cache: for those that are only put into another order. With
   * `expertsFromByte`, units of experts are left out.
   */
  readonly inMemory?: boolean | undefined;
}

/** An open kernel, and the source of its weights. */
export interface CachedKernel {
  readonly kernel: Kernel;
  /** The packed file's path; `undefined` when the weights are in memory alone. */
  readonly path: string | undefined;
}

/** A packed file that a kernel has mapped. */
interface UsedFile {
  readonly path: string;
  readonly handle: FileHandle;
  readonly size: number;
  /** Time of its last change that is known to be none of its content. */
  mtimeMs: number;
}

/** Packed files that kernels of this thread have mapped, with all their weights. */
const used = new Set<UsedFile>();

/**
 * Opens a described model: packs its weights, or maps the cached file of them.
 *
 * @throws {ReadMeError} when a tensor cannot be read, or the kernel cannot be opened
 */
export async function openCachedKernel(
  description: DecoderDescription,
  sizes: KernelSizes,
  options: CachedKernelOptions,
): Promise<CachedKernel> {
  if (options.inMemory === true) {
    const layout = layOut(description, sizes.expertsFromByte === undefined);
    const onProgress = (doneBytes: number, ofBytes: number): void =>
      options.onProgress?.({ stage: "building", doneBytes, ofBytes });
    const choice = { ...options, threads: sizes.threads };
    const weights = await packIntoMemory(layout.numBytes, packedPieces(description, onProgress, layout), choice);
    return { kernel: openKernel(weights, sizes, options), path: undefined };
  }
  for (let mayRetry = true; ; mayRetry = false) {
    const weights = await packedWeights(description, options);
    options.onProgress?.({ stage: "loading", doneBytes: 0, ofBytes: 0 });
    const file = typeof weights === "string" ? await useFile(weights) : undefined;
    try {
      const kernel = openKernel(weights, sizes, options);
      // WebAssembly has copied the file; reads of streamed experts report what is missing.
      const isMapped = kernel.info.kind === "native" && sizes.expertsFromByte === undefined;
      if (!isMapped) await leaveFile(file);
      const path = typeof weights === "string" ? weights : undefined;
      return { kernel: file && isMapped ? usingFile(kernel, file) : kernel, path };
    } catch (error) {
      await leaveFile(file);
      // A cached file may be removed after it was checked and before it is mapped.
      if (error instanceof TypeError || typeof weights !== "string" || !mayRetry) throw error;
    }
  }
}

/**
 * Finds a packed file that was cut or overwritten since a kernel of this thread mapped it: its weights are others now,
 * and reading what was cut ends the process. Files that were removed or replaced live on.
 *
 * @returns its path, if there is one
 */
export async function changedPackedFile(): Promise<string | undefined> {
  for (const file of used) {
    const { size, mtimeMs } = await file.handle.stat().catch(() => file);
    if (size !== file.size) return file.path;
    if (mtimeMs !== file.mtimeMs && !(await isWholeData(file.path))) return file.path;
    file.mtimeMs = mtimeMs;
  }
  return undefined;
}

/** Opens a file before a kernel does. @returns nothing if it is gone, which the kernel says */
async function useFile(path: string): Promise<UsedFile | undefined> {
  const handle = await open(path).catch(() => undefined);
  if (!handle) return undefined;
  const { size, mtimeMs } = await handle.stat();
  const file = { path, handle, size, mtimeMs };
  used.add(file);
  return file;
}

async function leaveFile(file: UsedFile | undefined): Promise<void> {
  if (file && used.delete(file)) await file.handle.close();
}

/** Leaves the file when the kernel is closed. */
function usingFile(kernel: Kernel, file: UsedFile): Kernel {
  const close = kernel.close.bind(kernel);
  return Object.assign(kernel, {
    close: async () => {
      await close();
      await leaveFile(file);
    },
  });
}
