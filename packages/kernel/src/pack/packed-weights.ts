// Packed weights of a model, from the cache folder or in memory.

import { createHash } from "node:crypto";
import { basename, dirname } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { cachedData, packedLimitBytes, trimPacked } from "@readme-moe/model";
import { encodeHeader, type DecoderDescription } from "../description.ts";
import { fill, layOut, packedFile } from "./packed-file.ts";

/** Progress of a packed file. */
interface PackProgress {
  readonly stage: "building" | "loading";
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Options of `packedWeights`. */
export interface PackOptions {
  /** Text that depends on everything from which the bytes of tensors are made. The description's header is added. */
  readonly key: string | Promise<string>;
  readonly cacheFolder: string;
  /** The model that the weights are of, so that the packed file can be found with it. @default not noted */
  readonly modelPath?: string | undefined;
  readonly onProgress?: ((progress: PackProgress) => void) | undefined;
  /** Called once, with the reason, when the weights cannot be cached and stay in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

/**
 * Returns the packed file's path, and writes the file if the cache has no complete one; its bytes when the cache cannot
 * be written. A new file makes room: the least recently used ones are dropped when the cache exceeds its limit.
 *
 * @throws {ReadMeError} when a tensor cannot be read; `ERR_WRITE_FAILED` without room in cache and memory
 */
export async function packedWeights(
  description: DecoderDescription,
  options: PackOptions,
): Promise<string | Uint8Array> {
  const { cacheFolder, modelPath, onProgress, onCacheFailure } = options;
  const header = encodeHeader(description, layOut(description).places);
  const key = `${await options.key} ${createHash("sha256").update(header).digest("hex")}`;
  let isNew = false;
  const chunks = (): AsyncIterable<Uint8Array> => {
    isNew = true;
    return packedFile(description, (doneBytes, ofBytes) => onProgress?.({ stage: "building", doneBytes, ofBytes }));
  };
  try {
    const note = "packed weights of the kernel";
    const path = await cachedData(cacheFolder, { kind: "kernels", key, note, modelPath, chunks });
    if (isNew) await makeRoom(cacheFolder, basename(dirname(path)));
    return path;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const weights = await fill(allocate(layOut(description).numBytes, reason), chunks());
    onCacheFailure?.(reason);
    return weights;
  }
}

/** Keeps the cache below its limit. Never fails: old files that stay harm nothing. */
async function makeRoom(cacheFolder: string, keptKey: string): Promise<void> {
  await trimPacked(packedLimitBytes(), { cacheFolder, keptKey }).catch(() => undefined);
}

function allocate(numBytes: number, reason: string): Uint8Array {
  try {
    return new Uint8Array(numBytes);
  } catch (cause) {
    const message = `The packed model cannot be cached (${reason}), and memory does not hold its ${numBytes} bytes`;
    throw new ReadMeError("ERR_WRITE_FAILED", message, { cause });
  }
}
