export { kvSizes, resolveEngineOptions, type EngineOptions, type KvSizes } from "./engine-options.ts";
export type { FunctionModule } from "./function-module.ts";
export { ReadMeEngine, type OpenOptions } from "./host/read-me-engine.ts";
export { KernelRunner, type KernelRunnerOptions, kvPrecisionOf } from "./kernel-runner.ts";
export type { LoadProgress } from "./protocol.ts";
export type { SchedulingOptions } from "./scheduling-options.ts";
export type { StepLogits, StepRunner, StepSequence } from "./step-runner.ts";
export { expertLayout, weightSizes, type WeightSizes } from "./weight-sizes.ts";
export { kernelInfo, kernelThreads } from "@readme-moe/kernel";
