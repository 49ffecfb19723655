// The models of a server: one that is open from the start to the end, or some that are opened when requests ask for
// them and share the memory.

import { createHash } from "node:crypto";
import type { Engine, LoadProgress, PromptInfo } from "@readme-moe/core";
import { type MemoryPlan, openPromptReader, readerOptionsOf } from "@readme-moe/engine";
import type { EnginesByName, ModelOpening, OnDemandModel, ServedModelsOptions } from "@readme-moe/express";
import { freeMemoryBytes } from "@readme-moe/kernel";
import { holdModel, modelName, type ModelHold, resolveCacheFolder } from "@readme-moe/model";
import { readTextData } from "../data-files.ts";
import { type OpenedFront, openFront } from "../fleet/open-front.ts";
import { modelPath, openEngine, type OpenedEngine, memoryPlanner } from "../models.ts";
import { type EngineFlags, engineOptionsOf, type FleetFlags } from "../options.ts";

export interface ModelFlags extends EngineFlags, FleetFlags {
  readonly name?: string;
  readonly alias?: readonly string[];
  readonly apiKey?: readonly string[];
  readonly keepPrompt?: readonly string[];
  readonly expertsFolder?: string;
  /** Time without requests after which a model is closed, in ms. */
  readonly keepAlive?: number;
  readonly maxQueueMs?: number;
}

export interface ServerModels {
  /** The first one answers requests that name none. */
  readonly names: readonly string[];
  readonly sources: EnginesByName;
  /** Rejects when a model is not there, or cannot be opened at the start. */
  readonly ready: Promise<unknown>;
  /** Options of models that are opened when requests ask for them. */
  readonly options: Pick<ServedModelsOptions, "keepAliveMs" | "memoryBytes">;
  /** Ends what the server does not dispose itself. */
  readonly close: () => Promise<void>;
}

/**
 * Begins to open the models that a server's arguments name.
 *
 * @param signal - ends the opening
 * @throws {TypeError} on flags that contradict each other
 */
export function openModels(paths: readonly string[], flags: ModelFlags, signal: AbortSignal): ServerModels {
  if (paths.length > 1 || flags.keepAlive !== undefined) return openOnDemand(paths, flags, signal);
  const [path = ""] = paths;
  const name = flags.name ?? modelName(path);
  const report = new Relay();
  const { fleet } = flags;
  const opening: Promise<OpenedEngine | OpenedFront> =
    fleet === undefined
      ? openKeeping(path, flags, { signal, onProgress: report.onProgress })
      : openFront(path, { ...flags, fleet }, signal);
  opening.catch(() => undefined);
  const source = ({ onProgress }: ModelOpening): Promise<Engine> => {
    report.to = onProgress;
    return opening.then(({ engine }) => engine);
  };
  const close = (): Promise<void> =>
    opening.then(
      (opened) => opened.close(),
      () => undefined,
    );
  return { names: [name], sources: { [name]: source }, ready: opening, options: {}, close };
}

/** Flags that are about one model, which is open from the start to the end. */
const OF_ONE = ["name", "lora", "draftHead", "recordTrace", "fleet"] as const;

function openOnDemand(paths: readonly string[], flags: ModelFlags, signal: AbortSignal): ServerModels {
  const wrong = OF_ONE.find(
    (name) => flags[name] !== undefined && (paths.length > 1 || name === "recordTrace" || name === "fleet"),
  );
  if (wrong !== undefined) {
    const flag = `--${wrong.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    throw new TypeError(`Expected no ${flag} with several models or --keep-alive`);
  }
  const names = paths.map((path) => (paths.length === 1 ? flags.name : undefined) ?? modelName(path));
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new TypeError(`Expected models of different names, got \`${twice}\` twice`);
  const relays = names.map(() => new Relay());
  const holds: ModelHold[] = [];
  const isAlone = paths.length === 1;
  const memoryBytes = flags.memory ?? (isAlone ? undefined : Math.floor(MEMORY_SHARE * freeMemoryBytes()));
  const ready = prepareAll(paths, flags, { signal, relays, holds, memoryBytes });
  ready.catch(() => undefined);
  const sources = names.map((name, index) => {
    const source = async ({ onProgress }: ModelOpening): Promise<OnDemandModel> => {
      (relays[index] as Relay).to = onProgress;
      return (await ready)[index] as OnDemandModel;
    };
    return [name, source] as const;
  });
  const close = async (): Promise<void> => {
    await ready.catch(() => undefined);
    for (const hold of holds) await hold.release();
  };
  const options = { keepAliveMs: flags.keepAlive, memoryBytes };
  return { names, sources: Object.fromEntries(sources), ready, options, close };
}

/** Passes progress on, from the time at which there is someone who wants it. */
class Relay {
  to: ((progress: LoadProgress) => void) | undefined;
  readonly onProgress = (progress: LoadProgress): void => this.to?.(progress);
}

interface Preparing {
  readonly signal: AbortSignal;
  readonly relays: readonly Relay[];
  /** Gets the marks that keep the models' files. */
  readonly holds: ModelHold[];
  /** Memory of all models together. */
  readonly memoryBytes: number | undefined;
}

/** Downloads models, one after the other, and plans their memory. */
async function prepareAll(
  paths: readonly string[],
  flags: ModelFlags,
  { signal, relays, holds, memoryBytes }: Preparing,
): Promise<readonly OnDemandModel[]> {
  const found: {
    readonly file: string;
    readonly info: PromptInfo;
    readonly planWithin: (memoryBytes: number | undefined) => MemoryPlan;
    readonly leastBytes: number;
  }[] = [];
  for (const [index, path] of paths.entries()) {
    const file = await modelPath(path, signal, flags, relays[index]?.onProgress);
    holds.push(await holdModel(resolveCacheFolder(flags.cacheFolder), file));
    const planWithin = await memoryPlanner(file, flags, signal);
    const reader = await openPromptReader(file, { ...readerOptionsOf(engineOptionsOf(flags)), signal });
    found.push({ file, info: reader.info, planWithin, leastBytes: sizeOf(planWithin(undefined)) });
    await reader.dispose();
  }
  const shares =
    memoryBytes === undefined
      ? []
      : divideMemory(
          found.map((one) => one.leastBytes),
          memoryBytes,
        );
  return found.map(({ file, info, planWithin }, index): OnDemandModel => {
    const memory = shares[index];
    const open: OnDemandModel["open"] = async (opening) =>
      (await openKeeping(file, { ...flags, memory }, opening)).engine;
    return { bytes: sizeOf(planWithin(memory)), info, open, opensAtOnce: paths.length === 1 };
  });
}

function sizeOf({ weightBytes, processBytes, kvCacheBytes, prefixCacheBytes }: MemoryPlan): number {
  return Math.floor(weightBytes + processBytes + kvCacheBytes + prefixCacheBytes);
}

/**
 * Divides memory among models: where all fit with the least keys and values that are useful, each gets an equal part of
 * the rest, so that all of them stay open. Otherwise each gets all of it, and they take turns.
 *
 * @param leastBytes - of each model
 */
export function divideMemory(leastBytes: readonly number[], memoryBytes: number): readonly number[] {
  const restBytes = memoryBytes - leastBytes.reduce((sum, bytes) => sum + bytes, 0);
  if (restBytes < 0) return leastBytes.map(() => memoryBytes);
  return leastBytes.map((bytes) => bytes + Math.floor(restBytes / leastBytes.length));
}

/** Share of the free memory that models may take together. */
const MEMORY_SHARE = 0.8;

/** Default of `--prefix-disk`. */
const PREFIX_DISK_BYTES = 4e9;

/** Returns a text of a server's keys, whose names are only their places: it keeps prompts on disk apart. */
function diskScopeOf({ apiKey }: ModelFlags): string {
  return apiKey === undefined ? "" : createHash("sha256").update(JSON.stringify(apiKey)).digest("hex");
}

/** Opens an engine that keeps the prompts of `--keep-prompt`. */
async function openKeeping(path: string, flags: ModelFlags, opening: ModelOpening): Promise<OpenedEngine> {
  const { keepPrompt = [] } = flags;
  const { signal, onProgress } = opening;
  const prompts = await Promise.all(keepPrompt.map((file) => readTextData(file)));
  // Operators may add experts, which a budget is for, to a model without any.
  const disk = { prefixDisk: PREFIX_DISK_BYTES, prefixDiskScope: diskScopeOf(flags) };
  const own = { ...disk, ...(flags.expertsFolder === undefined ? {} : { lora: [] }), ...flags };
  const opened = await openEngine(path, own, signal, onProgress);
  const { engine, close } = opened;
  engine.events.on("prompt:kept", ({ refusal, saveFailure }) => {
    if (refusal !== undefined) console.error(`note: a saved prompt was not used: ${refusal}`);
    if (saveFailure !== undefined) console.error(`note: a prompt was not saved: ${saveFailure}`);
  });
  engine.events.on("prefix:save-failed", ({ reason }) => {
    console.error(`note: beginnings of prompts are not saved for a minute: ${reason}`);
  });
  try {
    for (const content of prompts) {
      const messages = [{ role: "system", content }];
      await engine.keepPrompt(engine.info.hasChatTemplate ? { messages } : content, { signal });
    }
    warmUp(engine);
    return opened;
  } catch (error) {
    await close();
    throw error;
  }
}

/** Tokenizes a text while nobody waits: a process takes twice as long for its first long prompt as for later ones. */
function warmUp(engine: Engine): void {
  const words = Array.from({ length: 2000 }, (_, index) => `"key${index}": the ${(index * 7919).toString(36)},\n`);
  const content = words.join("");
  const prompt = engine.info.hasChatTemplate ? { messages: [{ role: "user", content }] } : content;
  engine.tokenize(prompt).catch(() => undefined);
}

/**
 * Reads `--alias`: a plain one means the first model, `alias=model` another one.
 * @throws {TypeError} when the model is not served
 */
export function aliasesOf(alias: readonly string[] = [], names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    alias.map((text) => {
      const found = names.find((name) => text.endsWith(`=${name}`));
      return found === undefined ? [text, names[0] ?? ""] : [text.slice(0, -found.length - 1), found];
    }),
  );
}
