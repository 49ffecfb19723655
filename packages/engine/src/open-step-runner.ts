import { isKernelModel } from "@readme-moe/kernel";
import type { Model } from "@readme-moe/model";
import { KernelRunner, type KernelRunnerOptions } from "./kernel-runner.ts";
import { ModelRunner } from "./model-runner.ts";
import type { StepRunner } from "./step-runner.ts";

/** Opens what runs a model with all weights in memory: dense models in the kernel, mixtures as graphs. @throws {ReadMeError} */
export async function openStepRunner(model: Model, options: KernelRunnerOptions = {}): Promise<StepRunner> {
  return isKernelModel(model) ? KernelRunner.open(model, options) : ModelRunner.open(model, options);
}
