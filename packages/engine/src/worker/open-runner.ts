import type { EvictionPolicy } from "@readme-moe/core";
import type { Model } from "@readme-moe/model";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import type { EngineOutput } from "../engine-parts.ts";
import { importFunction } from "../function-module.ts";
import { KernelRunner, type KernelRunnerOptions } from "../kernel-runner.ts";

/** Opens a model with all experts in memory, or with as many as `expertCacheBytes` has room for. */
export async function openRunner(
  model: Model,
  options: ResolvedEngineOptions,
  output: EngineOutput,
  hooks: Pick<KernelRunnerOptions, "onProgress" | "onCacheFailure">,
): Promise<KernelRunner> {
  const { precision, threads, cacheFolder, expertCacheBytes, expertCachePolicy, kernel, kvPrecision } = options;
  const policy =
    typeof expertCachePolicy === "string" ? expertCachePolicy : await importFunction<EvictionPolicy>(expertCachePolicy);
  const runner = await KernelRunner.open(model, {
    ...hooks,
    precision,
    threads,
    cacheFolder,
    kernel,
    kvPrecision,
    expertCacheBytes,
    policy,
    onLoaded: (unit, bytes, durationMs) => output.event("expert:loaded", { ...unit, numLayers: 1, bytes, durationMs }),
    onEvicted: (unit, nextUse) => output.event("expert:evicted", { ...unit, numLayers: 1, nextUse }),
  });
  output.event("kernel:selected", runner.info);
  return runner;
}
