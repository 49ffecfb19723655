import { everythingResident, type EvictionPolicy, type Residency } from "@readme-moe/core";
import type { Model } from "@readme-moe/model";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import type { EngineOutput } from "../engine-output.ts";
import { importFunction } from "../function-module.ts";
import { KernelRunner } from "../kernel-runner.ts";
import { openStepRunner } from "../open-step-runner.ts";
import type { RunnerOptions } from "../model-runner.ts";
import type { StepRunner } from "../step-runner.ts";
import { StreamedRunner } from "../streamed/streamed-runner.ts";

/** With all experts in memory, or with as many as `expertCacheBytes` has room for. */
export async function openRunner(
  model: Model,
  options: ResolvedEngineOptions,
  output: EngineOutput,
  hooks: Pick<RunnerOptions, "onProgress" | "onCacheFailure">,
): Promise<{ readonly runner: StepRunner; readonly residency: Residency }> {
  const { precision, threads, cacheFolder, expertCacheBytes, expertCachePolicy, kernel, kvPrecision } = options;
  const shared = { precision, threads, cacheFolder, ...hooks };
  if (expertCacheBytes === undefined) {
    const runner = await openStepRunner(model, { ...shared, kernel, kvPrecision });
    if (runner instanceof KernelRunner) output.event("kernel:selected", runner.info);
    return { runner, residency: everythingResident };
  }
  const policy =
    typeof expertCachePolicy === "string" ? expertCachePolicy : await importFunction<EvictionPolicy>(expertCachePolicy);
  const runner = await StreamedRunner.open(model, {
    ...shared,
    expertCacheBytes,
    policy,
    onLoaded: (unit, bytes, durationMs) => output.event("expert:loaded", { ...unit, bytes, durationMs }),
    onEvicted: (unit, nextUse) => output.event("expert:evicted", { ...unit, nextUse }),
  });
  return { runner, residency: runner.residency };
}
