// Two engines of one model: without speculation and with it.

import { expertBytes } from "@readme-moe/core";
import { type EngineOptions, expertLayout, ReadMeEngine, resolveEngineOptions } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import type { SpeculationOptions } from "./options.ts";

export const VARIANTS = ["without", "with"] as const;
export type Variant = (typeof VARIANTS)[number];

/** Both engines, and whether the engine has the option at all. */
export interface Engines extends AsyncDisposable {
  readonly engines: Readonly<Record<Variant, ReadMeEngine>>;
  readonly hasSpeculation: boolean;
}

/** Where the experts are: all in memory, or half of their bytes. */
export type Memory = "all" | "half";

/** Opens both engines. */
export async function openEngines(path: string, memory: Memory, options: SpeculationOptions): Promise<Engines> {
  const { threads, precision, draft } = options;
  const half = memory === "half" ? { expertCacheBytes: await halfOfExperts(path) } : {};
  const base: EngineOptions = { threads, precision, ...half };
  const hasSpeculation = isKnown({ speculation: false });
  const optionsOf = (speculation: boolean): EngineOptions =>
    hasSpeculation ? { ...base, ...{ speculation }, ...(speculation && draft !== undefined ? { draft } : {}) } : base;
  const without = await ReadMeEngine.open(path, optionsOf(false));
  const other = await ReadMeEngine.open(path, optionsOf(true)).catch(async (error: unknown) => {
    await without.dispose();
    throw error;
  });
  return {
    engines: { without, with: other },
    hasSpeculation,
    async [Symbol.asyncDispose]() {
      await Promise.all([without.dispose(), other.dispose()]);
    },
  };
}

/** Tells whether this version of the engine has an option. */
function isKnown(option: object): boolean {
  try {
    resolveEngineOptions({ ...option });
    return true;
  } catch {
    return false;
  }
}

/** Lists where the experts of a model can be; a dense model has no choice. */
export async function memoriesOf(path: string): Promise<readonly Memory[]> {
  const model = await openModel(path);
  const { kind } = model;
  await model.close();
  return kind === "dense" ? ["all"] : ["all", "half"];
}

async function halfOfExperts(path: string): Promise<number> {
  const model = await openModel(path);
  const layout = expertLayout(model);
  await model.close();
  return Math.ceil((layout.numExperts * expertBytes(layout)) / 2);
}
