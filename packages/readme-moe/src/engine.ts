import { ReadMeEngine } from "@readme-moe/engine";
import { showLoading } from "./loading-progress.ts";
import { modelPath } from "./model-path.ts";
import type { RuntimeFlags } from "./options.ts";

export interface EngineFlags extends RuntimeFlags {
  readonly expert?: string;
  readonly isolation?: "thread" | "process";
  /** In bytes. */
  readonly expertCache?: number;
}

/** Opens an engine, with progress on a terminal, and ends it after `use`, whatever happens in it. */
export async function withEngine<Result>(
  path: string,
  flags: EngineFlags,
  signal: AbortSignal,
  use: (engine: ReadMeEngine) => Promise<Result>,
): Promise<Result> {
  const { precision, threads, cacheFolder, expert, isolation, expertCache: expertCacheBytes } = flags;
  const options = { precision, threads, cacheFolder, expert, isolation, expertCacheBytes };
  const opened = await modelPath(path, signal, cacheFolder);
  const engine = await ReadMeEngine.open(opened, { ...options, signal, onProgress: showLoading }).finally(() =>
    showLoading(),
  );
  try {
    if (engine.cacheFailure !== undefined) console.error(`note: the graph is not cached: ${engine.cacheFailure}`);
    return await use(engine);
  } finally {
    await engine.dispose();
  }
}
