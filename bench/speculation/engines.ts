// Two engines of one model: without speculation, or without a head, and with it.

import { expertBytes } from "@readme-moe/core";
import { type EngineOptions, expertLayout, ReadMeEngine } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import type { SpeculationOptions } from "./options.ts";

export const VARIANTS = ["without", "with"] as const;
export type Variant = (typeof VARIANTS)[number];

export type Engines = AsyncDisposable & Readonly<Record<Variant, ReadMeEngine>>;

/** Where the experts are: all in memory, or half of their bytes. */
export type Memory = "all" | "half";

/** Opens both engines; the one without a head drafts from texts if that is the baseline. */
export async function openEngines(path: string, memory: Memory, options: SpeculationOptions): Promise<Engines> {
  const { threads, precision, draftHead, baseline } = options;
  const half = memory === "half" ? { expertCacheBytes: await halfOfExperts(path) } : {};
  const base: EngineOptions = { threads, precision, ...half };
  const drafts: EngineOptions = baseline === "texts" ? { draftHead: "none" } : { speculation: false };
  const without = await ReadMeEngine.open(path, { ...base, ...drafts });
  const other = await ReadMeEngine.open(path, { ...base, speculation: true, draftHead }).catch(
    async (error: unknown) => {
      await without.dispose();
      throw error;
    },
  );
  return {
    without,
    with: other,
    async [Symbol.asyncDispose]() {
      await Promise.all([without.dispose(), other.dispose()]);
    },
  };
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
