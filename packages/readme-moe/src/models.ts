// Opens what `<model>` names: as a path, a model with its router and runner, or an engine.

import { type LoadProgress, ReadMeError, type PreGatingRouter } from "@readme-moe/core";
import {
  KernelRunner,
  type MemoryPlan,
  openExperts,
  draftHeadBytes,
  planModelMemory,
  ReadMeEngine,
  resolveEngineOptions,
  type StepRunner,
  weightSizes,
} from "@readme-moe/engine";
import { precisionOf } from "@readme-moe/kernel";
import {
  describeMixture,
  holdModel,
  isPublished,
  type LoraSet,
  type Model,
  modelName,
  openModel,
  resolveCacheFolder,
  resolveModel,
  RUNNING_PRECISION,
} from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { shownDownload, shownLoading } from "./show-download.ts";
import { loraFolders } from "./loras/find-adapters.ts";
import { type LoraArgument, type EngineFlags, engineOptionsOf, type RuntimeFlags } from "./options.ts";
import { openTraceFile, type TraceFile } from "./trace-file.ts";
import { showStatus } from "./terminal.ts";

/** Description of `<model>` in help texts. */
export const MODEL_ARGUMENT = "model folder, GGUF or ONNX file, short name (qwen3:0.6b), or hub id (organisation/name)";

/** Flags that a model's files depend on. */
type FileFlags = Pick<RuntimeFlags, "cacheFolder" | "precision">;

/**
 * Resolves `<model>` as `resolveModel` does, with progress on a terminal.
 * @param flags - those of a command that runs the model; others take the most exact weights of a short name
 * @param onLoading - gets the progress of a download @default the terminal shows it
 */
export async function modelPath(
  name: string,
  signal: AbortSignal,
  flags?: FileFlags,
  onLoading?: (progress: LoadProgress) => void,
): Promise<string> {
  const cacheFolder = flags?.cacheFolder;
  const precision = flags && (flags.precision ?? RUNNING_PRECISION);
  try {
    return await resolveModel(name, { cacheFolder, precision, signal, ...shownDownload(undefined, onLoading) });
  } finally {
    showStatus();
  }
}

/** Opens the files of a model, and closes them after `use`, also when that fails. */
export async function withModelFiles<Result>(
  name: string,
  signal: AbortSignal,
  use: (model: Model) => Promise<Result>,
  flags?: FileFlags,
): Promise<Result> {
  const path = await modelPath(name, signal, flags);
  const hold = await holdModel(resolveCacheFolder(flags?.cacheFolder), path);
  try {
    const model = await openModel(path);
    try {
      return await use(model);
    } finally {
      await model.close();
    }
  } finally {
    await hold.release();
  }
}

/** A model that runs steps without an engine. */
export interface RunningModel {
  readonly model: Model;
  readonly runner: StepRunner;
  readonly router: PreGatingRouter;
  /** Names of the experts; of a dense model with loras, "none" first. */
  readonly experts: readonly string[];
  /** Whether `router` is the model's own, or that of its loras. */
  readonly hasOwnRouter: boolean;
}

interface RunningFlags {
  /** Whether encoders are run, too; other models that do not generate are refused. @default false */
  readonly takesEncoders?: boolean;
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
  const { threads, cacheFolder } = flags;
  const closers: (() => Promise<void>)[] = [];
  let cacheFailure: string | undefined;
  // Router and decoder fail for the same reason.
  const onCacheFailure = (reason: string): void => void (cacheFailure ??= reason);
  const loras = await loraFolders(flags.lora, signal);
  const open = async (model: Model): Promise<Result> => {
    if (model.config.pooling && !(flags.takesEncoders && model.config.encoder)) {
      const message = `${model.path}: is ${describeMixture(model)}, and this needs one that generates`;
      throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
    }
    try {
      const precision = precisionOf(model, flags.precision);
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
  return withModelFiles(name, signal, open, flags);
}

/** Chooses the expert of a call: a dense model needs no router, nor does a comparison of experts. */
function choiceOf(
  { expert, perExpert }: RunningFlags,
  model: Pick<Model, "kind">,
  hasRouter: boolean,
): string | number | undefined {
  if (expert === "none" && isPublished(model)) return 0;
  return expert ?? ((perExpert || isPublished(model)) && !hasRouter ? 0 : undefined);
}

/** Returns what `openRouter` needs of a model: its own router and experts, or those of its loras. */
function routedModel(model: Model, set: LoraSet, names: readonly string[]): Parameters<typeof openRouter>[0] {
  if (!isPublished(model)) return model;
  const { path, router } = set;
  return { path, router, experts: { ...model.experts, names }, fingerprint: (folder) => set.fingerprint(folder) };
}

/** An engine and the trace that it records. */
export interface OpenedEngine {
  readonly engine: ReadMeEngine;
  /** Ends both. */
  readonly close: () => Promise<void>;
}

/** Checks flags for contradictions, before anything is read. @throws {TypeError} if there is one */
export function checkEngineFlags(flags: EngineFlags): void {
  if (flags.expertCachePolicy !== undefined && flags.expertCache === undefined) {
    throw new TypeError(
      "Expected --expert-cache-policy with --expert-cache only; all experts are in memory without it",
    );
  }
  const hasHead = flags.draftHead !== undefined && flags.draftHead !== "none";
  if (hasHead && flags.speculation === "off") {
    throw new TypeError("Expected --draft-head without --speculation off, which drafts nothing");
  }
  if (flags.recordTrace !== undefined && (flags.speculation === "on" || hasHead)) {
    throw new TypeError("Expected --record-trace without --speculation on and --draft-head: traces have no drafts");
  }
}

/**
 * Reads what the memory of a model depends on that a command would open.
 * @returns a function that plans it within `memoryBytes`, the same on all machines; it throws as `planEngineMemory`
 */
export async function memoryPlanner(
  name: string,
  flags: EngineFlags,
  signal: AbortSignal,
): Promise<(memoryBytes: number | undefined) => MemoryPlan> {
  const options = resolveEngineOptions(engineOptionsOf(flags));
  const planner = async (model: Model): Promise<(memoryBytes: number | undefined) => MemoryPlan> => {
    const weights = weightSizes(model, precisionOf(model, options.precision));
    const draftBytes = await draftHeadBytes(model, options);
    return (memoryBytes) => planModelMemory(model, { ...options, memoryBytes }, { weights, draftBytes });
  };
  return withModelFiles(name, signal, planner, flags);
}

/**
 * Opens an engine.
 * @param onLoading - gets the progress @default a terminal or a log shows it
 * @throws {TypeError} if flags contradict each other
 */
export async function openEngine(
  name: string,
  flags: EngineFlags,
  signal: AbortSignal,
  onLoading?: (progress: LoadProgress) => void,
): Promise<OpenedEngine> {
  checkEngineFlags(flags);
  const path = await modelPath(name, signal, flags, onLoading);
  const loras = await loraFolders(flags.lora, signal);
  const engine = await ReadMeEngine.open(path, {
    ...engineOptionsOf(flags),
    loras,
    signal,
    onProgress: onLoading ?? shownLoading(modelName(name)),
  }).finally(() => showStatus());
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
