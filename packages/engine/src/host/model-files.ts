// The files of an engine's models: found by name, and marked as used until the engine is disposed.

import type { LoadProgress } from "@readme-moe/core";
import {
  holdModel,
  type ModelHold,
  modelName,
  resolveCacheFolder,
  resolveModel,
  RUNNING_PRECISION,
} from "@readme-moe/model";
import type { EngineOptions, ResolvedEngineOptions } from "../engine-options.ts";

/** Files that an engine has open, also between a failure and a restart. */
export interface OpenedFiles {
  /** Name under which servers offer the model. */
  readonly name: string;
  /** The model's folder or file. */
  readonly path: string;
  /** Lets the models be removed. Further calls do nothing. */
  release(): Promise<void>;
  /** Does the same, and fails with the error that stopped the opening. */
  readonly giveUp: (error: unknown) => Promise<never>;
}

/** Options of `ReadMeEngine.open`: those of the engine, and those of opening it. */
export interface OpenOptions extends EngineOptions {
  /** Called while the model is opened. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Stops the opening; `open` rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Finds an engine's models, and downloads those that are not on this machine.
 * @throws {TypeError} when `name` is no text, {ReadMeError} as `resolveModel`
 */
export async function openFiles(
  name: string,
  { precision, cacheFolder }: Pick<ResolvedEngineOptions, "precision" | "cacheFolder">,
  { onProgress, signal }: Pick<OpenOptions, "onProgress" | "signal">,
): Promise<OpenedFiles> {
  if (typeof name !== "string" || name === "") {
    throw new TypeError("Expected `path` to name a folder, a GGUF file or a model");
  }
  signal?.throwIfAborted();
  const holds: ModelHold[] = [];
  const release = async (): Promise<void> => {
    for (const hold of holds) await hold.release();
  };
  const giveUp = async (error: unknown): Promise<never> => {
    await release();
    throw error;
  };
  const open = async (each: string): Promise<string> => {
    const path = await resolveModel(each, {
      precision: precision ?? RUNNING_PRECISION,
      cacheFolder,
      signal,
      onProgress: ({ doneBytes, ofBytes }) => onProgress?.({ stage: "downloading", doneBytes, ofBytes }),
    });
    holds.push(await holdModel(resolveCacheFolder(cacheFolder), path));
    return path;
  };
  try {
    const path = await open(name);
    return { name: modelName(name), path, release, giveUp };
  } catch (error) {
    return giveUp(error);
  }
}
