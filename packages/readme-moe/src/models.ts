// Opens what `<model>` names: as a path, a model with its router and runner, or an engine.

import { existsSync } from "node:fs";
import { ReadMeError, type PreGatingRouter } from "@readme-moe/core";
import { KernelRunner, openExperts, ReadMeEngine, type EngineOptions, type StepRunner } from "@readme-moe/engine";
import { downloadModel, type LowRankSet, openModel, type Model } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { hubIdOf } from "./hub-id.ts";
import { loraFolders } from "./low-rank/find-adapters.ts";
import type { LoraArgument } from "./low-rank/lora-option.ts";
import type { EngineFlags, RuntimeFlags } from "./options.ts";
import { presetNamed, presetPath } from "./presets/preset.ts";
import { openTraceFile, type TraceFile } from "./simulation/trace-file.ts";
import { showDownload, showLoading } from "./terminal.ts";

/** Description of `<model>` in help texts. */
export const MODEL_ARGUMENT = "model folder, GGUF or ONNX file, hub id (organisation/name), or smollm2-135m";

/**
 * Resolves `<model>`: the path of a folder or file, else a preset, else a model of the hub, which is downloaded into
 * the shared cache.
 *
 * @param cacheFolder - folder of presets. @default `README_MOE_CACHE`, else the platform's cache folder
 */
export async function modelPath(name: string, signal: AbortSignal, cacheFolder?: string): Promise<string> {
  if (existsSync(name)) return name;
  const preset = presetNamed(name);
  if (preset) return presetPath(preset, { cacheFolder, signal });
  if (hubIdOf(name) === undefined) return name;
  try {
    return await downloadModel(name, { signal, onProgress: showDownload });
  } catch (error) {
    if (!(error instanceof ReadMeError)) throw error;
    const message = `${name}: no such file or folder; as a model of the hub: ${error.message}`;
    throw new ReadMeError(error.code, message, { cause: error });
  } finally {
    showDownload();
  }
}

/** Opens the files of a model, and closes them after `use`, also when that fails. */
export async function withModelFiles<Result>(
  name: string,
  signal: AbortSignal,
  use: (model: Model) => Promise<Result>,
  cacheFolder?: string,
): Promise<Result> {
  const model = await openModel(await modelPath(name, signal, cacheFolder));
  try {
    return await use(model);
  } finally {
    await model.close();
  }
}

/** A model that runs steps without an engine. */
export interface RunningModel {
  readonly model: Model;
  readonly runner: StepRunner;
  readonly router: PreGatingRouter;
  /** Names of the experts; of a dense model with low-rank experts, "none" first. */
  readonly experts: readonly string[];
  /** Whether `router` is the model's own, or that of its low-rank experts. */
  readonly hasOwnRouter: boolean;
}

interface RunningFlags {
  readonly expert?: string;
  readonly perExpert?: boolean;
  readonly lora?: readonly LoraArgument[];
}

/** Opens model, router and runner, and closes all three after `use`, also when that fails. */
export async function withRunningModel<Result>(
  name: string,
  flags: RuntimeFlags & RunningFlags,
  signal: AbortSignal,
  use: (running: RunningModel) => Promise<Result>,
): Promise<Result> {
  const { precision, threads, cacheFolder } = flags;
  const closers: (() => Promise<void>)[] = [];
  let cacheFailure: string | undefined;
  // Router and decoder fail for the same reason.
  const onCacheFailure = (reason: string): void => void (cacheFailure ??= reason);
  const loras = await loraFolders(flags.lora, signal);
  const open = async (model: Model): Promise<Result> => {
    try {
      const runner = await KernelRunner.open(model, { precision, threads, cacheFolder, onCacheFailure });
      closers.unshift(() => runner.dispose());
      const set = await openExperts(runner, model, loras);
      closers.unshift(() => set.close());
      const { expertNames: experts } = runner;
      const routed = routedModel(model, set, experts);
      const hasOwnRouter = routed.router !== undefined;
      const router = await openRouter(routed, choiceOf(flags, model, hasOwnRouter), {
        threads,
        cacheFolder,
        onCacheFailure,
      });
      closers.unshift(() => router.dispose());
      noteCacheFailure(cacheFailure);
      return await use({ model, runner, router, experts, hasOwnRouter });
    } finally {
      for (const close of closers) await close();
    }
  };
  return withModelFiles(name, signal, open, cacheFolder);
}

/** Chooses the expert of a call: a dense model needs no router, nor does a comparison of experts. */
function choiceOf(
  { expert, perExpert }: RunningFlags,
  { kind }: Pick<Model, "kind">,
  hasRouter: boolean,
): string | number | undefined {
  if (expert === "none" && kind === "dense") return 0;
  return expert ?? ((perExpert || kind === "dense") && !hasRouter ? 0 : undefined);
}

/** Returns what `openRouter` needs of a model: its own router and experts, or those of its low-rank experts. */
function routedModel(model: Model, set: LowRankSet, names: readonly string[]): Parameters<typeof openRouter>[0] {
  if (model.kind !== "dense") return model;
  const { path, router } = set;
  return { path, router, experts: { ...model.experts, names }, fingerprint: (folder) => set.fingerprint(folder) };
}

/** An engine and the trace that it records. */
export interface OpenedEngine {
  readonly engine: ReadMeEngine;
  /** Ends both. */
  readonly close: () => Promise<void>;
}

/**
 * Opens an engine, with progress on a terminal.
 * @param more - options that only some commands have
 * @throws {TypeError} if flags contradict each other
 */
export async function openEngine(
  name: string,
  flags: EngineFlags,
  signal: AbortSignal,
  more: EngineOptions = {},
): Promise<OpenedEngine> {
  const { precision, threads, cacheFolder, expert, isolation, controlTokensInMessages } = flags;
  if (flags.expertCachePolicy !== undefined && flags.expertCache === undefined) {
    throw new TypeError(
      "Expected --expert-cache-policy with --expert-cache only; all experts are in memory without it",
    );
  }
  if (flags.draft !== undefined && flags.speculation === "off") {
    throw new TypeError("Expected --draft without --speculation off, which drafts nothing");
  }
  if (flags.recordTrace !== undefined && (flags.speculation === "on" || flags.draft !== undefined)) {
    throw new TypeError("Expected --record-trace without --speculation on and --draft: the simulator knows no drafts");
  }
  const path = await modelPath(name, signal, cacheFolder);
  const draft = flags.draft === undefined ? undefined : await modelPath(flags.draft, signal, cacheFolder);
  const loras = await loraFolders(flags.lora, signal);
  const engine = await ReadMeEngine.open(path, {
    ...more,
    precision,
    threads,
    cacheFolder,
    expert,
    loras,
    isolation,
    expertCacheBytes: flags.expertCache,
    expertCachePolicy: flags.expertCachePolicy,
    controlTokensInMessages,
    speculation: speculates(flags),
    draft,
    signal,
    onProgress: showLoading,
  }).finally(() => showLoading());
  let traceFile: TraceFile | undefined;
  const close = async (): Promise<void> => {
    await traceFile?.close();
    await engine.dispose();
  };
  try {
    if (flags.recordTrace !== undefined) traceFile = await openTraceFile(flags.recordTrace, path, engine);
  } catch (error) {
    await close();
    throw error;
  }
  noteCacheFailure(engine.cacheFailure);
  const fallbackReason = engine.info.kernel?.fallbackReason;
  if (fallbackReason !== undefined) console.error(`note: WebAssembly runs the model: ${fallbackReason}`);
  return { engine, close };
}

/** Opens an engine and ends it after `use`, also when that fails. */
export async function withEngine<Result>(
  name: string,
  flags: EngineFlags,
  signal: AbortSignal,
  use: (engine: ReadMeEngine) => Promise<Result>,
): Promise<Result> {
  const { engine, close } = await openEngine(name, flags, signal);
  try {
    return await use(engine);
  } finally {
    await close();
  }
}

function noteCacheFailure(reason: string | undefined): void {
  if (reason !== undefined) console.error(`note: the model is not cached: ${reason}`);
}

/** Whether the engine drafts tokens; `undefined` for its default. Traces are recorded without. */
function speculates({ speculation, recordTrace }: EngineFlags): boolean | undefined {
  if (recordTrace !== undefined) return false;
  return speculation === undefined ? undefined : speculation === "on";
}
