import { ReadMeEngine, type EngineOptions } from "@readme-moe/engine";
import { showLoading } from "./progress.ts";
import { modelPath } from "./model-path.ts";
import type { RuntimeFlags } from "./options.ts";
import { openTraceFile, type TraceFile } from "./simulation/record-trace-file.ts";

export interface EngineFlags extends RuntimeFlags {
  readonly expert?: string;
  readonly isolation?: "thread" | "process";
  /** In bytes. */
  readonly expertCache?: number;
  readonly controlTokensInMessages?: "text" | "control";
  /** A file. */
  readonly recordTrace?: string;
}

/** An engine, and what goes with it. */
export interface OpenedEngine {
  readonly engine: ReadMeEngine;
  /** Ends both. */
  readonly close: () => Promise<void>;
}

/**
 * Opens an engine, with progress on a terminal.
 * @param more - options that only some commands have
 */
export async function openEngine(
  path: string,
  flags: EngineFlags,
  signal: AbortSignal,
  more: EngineOptions = {},
): Promise<OpenedEngine> {
  const { precision, threads, cacheFolder, expert, isolation, expertCache: expertCacheBytes, recordTrace } = flags;
  const { controlTokensInMessages } = flags;
  const options = {
    ...more,
    precision,
    threads,
    cacheFolder,
    expert,
    isolation,
    expertCacheBytes,
    controlTokensInMessages,
  };
  const opened = await modelPath(path, signal, cacheFolder);
  const engine = await ReadMeEngine.open(opened, { ...options, signal, onProgress: showLoading }).finally(() =>
    showLoading(),
  );
  let traceFile: TraceFile | undefined;
  const close = async (): Promise<void> => {
    await traceFile?.close();
    await engine.dispose();
  };
  try {
    if (recordTrace !== undefined) traceFile = await openTraceFile(recordTrace, opened, engine);
  } catch (error) {
    await close();
    throw error;
  }
  if (engine.cacheFailure !== undefined) console.error(`note: the model is not cached: ${engine.cacheFailure}`);
  const fallbackReason = engine.info.kernel?.fallbackReason;
  if (fallbackReason !== undefined) console.error(`note: WebAssembly runs the model: ${fallbackReason}`);
  return { engine, close };
}

/** Opens an engine and ends it after `use`, whatever happens in it. */
export async function withEngine<Result>(
  path: string,
  flags: EngineFlags,
  signal: AbortSignal,
  use: (engine: ReadMeEngine) => Promise<Result>,
): Promise<Result> {
  const { engine, close } = await openEngine(path, flags, signal);
  try {
    return await use(engine);
  } finally {
    await close();
  }
}
