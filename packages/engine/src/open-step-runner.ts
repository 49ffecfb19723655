import type { Model } from "@readme-moe/model";
import { KernelRunner, type KernelRunnerOptions } from "./kernel-runner.ts";
import type { StepRunner } from "./step-runner.ts";

/** Opens what runs a model with all weights in memory. @throws {ReadMeError} */
export async function openStepRunner(model: Model, options: KernelRunnerOptions = {}): Promise<StepRunner> {
  return KernelRunner.open(model, options);
}
