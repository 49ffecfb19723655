// Opens each model in each wanted precision.

import { type ExpertLayout, type LoadProgress, ReadMeError } from "@readme-moe/core";
import { expertLayout, openPromptReader, ReadMeEngine } from "@readme-moe/engine";
import type { FleetEngine } from "@readme-moe/fleet";
import { modelName, openModel, resolveModel } from "@readme-moe/model";
import type { OpenedModel } from "./live-model.ts";

export type PrecisionName = "fp32" | "int8" | "int4";

export interface OpenModelsOptions {
  /** Folders, GGUF files, short names or ids of the hub. */
  readonly paths: readonly string[];
  readonly precisions: readonly PrecisionName[];
  /** Memory for each model's experts in int8. @default a third of their size, so that the live view shows evictions */
  readonly memoryBytes?: number | undefined;
  /** Loras over the dense ones of these models: folders of adapters or sets, by name. @default none */
  readonly loras?: Readonly<Record<string, string>> | undefined;
  /** Most sequences in one step. A scheduler has a choice only if others wait. */
  readonly maxNumBatchedSeqs: number;
  /** Called while a model is opened, with its name. */
  readonly onProgress?: ((name: string, progress: LoadProgress) => void) | undefined;
  /** URL of a fleet whose workers run the models. @default this machine runs them */
  readonly fleet?: string | undefined;
}

/** @throws {ReadMeError | RangeError} when a model cannot be opened, or the budget is too small; closes the others */
export async function openModels({
  paths,
  precisions,
  memoryBytes,
  loras: given = {},
  maxNumBatchedSeqs,
  onProgress,
  fleet,
}: OpenModelsOptions): Promise<OpenedModel[]> {
  const opened: OpenedModel[] = [];
  try {
    for (const path of paths) {
      const title = modelName(path);
      if (fleet !== undefined) {
        opened.push({ name: title, title, engine: await openFront(path, fleet) });
        continue;
      }
      const layout = await layoutOf(await resolveModel(path, { precision: precisions[0] }));
      for (const precision of precisions) {
        const name = precisions.length > 1 ? `${title}-${precision}` : title;
        // Only int8 experts are streamed.
        const { layerBytes, expertCacheBytes } = precision === "int8" && layout ? budget(layout, memoryBytes) : {};
        const loras = layout || Object.keys(given).length === 0 ? undefined : given;
        const options = { precision, expertCacheBytes, maxNumBatchedSeqs, loras };
        const engine = await ReadMeEngine.open(path, {
          ...options,
          onProgress: (progress) => onProgress?.(name, progress),
        });
        opened.push({ name, title, engine, layerBytes });
      }
    }
    return opened;
  } catch (error) {
    await Promise.all(opened.map(({ engine }) => engine.dispose()));
    if (!(error instanceof ReadMeError) || error.code !== "ERR_FILE_CORRUPT") throw error;
    const advice = "if the file is damaged, delete it, and the next start downloads or makes it again";
    throw new ReadMeError(error.code, `${error.message}; ${advice}`, { cause: error });
  }
}

/** Opens a front of a fleet, which reads prompts and holds no weights. */
async function openFront(path: string, fleet: string): Promise<FleetEngine> {
  // Without a fleet no client of Valkey is loaded.
  const { FleetEngine } = await import("@readme-moe/fleet");
  const reader = await openPromptReader(await resolveModel(path));
  try {
    return await FleetEngine.open({ fleet, reader });
  } catch (error) {
    await reader.dispose();
    throw error;
  }
}

function budget({ numExperts, layerBytes }: ExpertLayout, memoryBytes: number | undefined) {
  const allBytes = numExperts * layerBytes.reduce((sum, bytes) => sum + bytes, 0);
  const leastBytes = numExperts * Math.max(...layerBytes);
  return { layerBytes, expertCacheBytes: memoryBytes ?? Math.max(leastBytes, Math.ceil(allBytes / 3)) };
}

/** @returns `undefined` for dense models */
async function layoutOf(path: string): Promise<ExpertLayout | undefined> {
  const model = await openModel(path);
  try {
    return model.experts.names.length > 1 ? expertLayout(model) : undefined;
  } finally {
    await model.close();
  }
}
