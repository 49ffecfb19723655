export {
  ENGINE_OPTIONS,
  readerOptionsOf,
  resolveEngineOptions,
  type EngineOption,
  type EngineOptionName,
  type EngineOptions,
  type PromptReaderOptions,
  type SchedulingOptions,
} from "./engine-options.ts";
export { type MemoryNeeds, type MemoryOptions, type MemoryPlan, planEngineMemory } from "./memory-plan.ts";
export {
  kvPrecisionOf,
  expertLayout,
  mixtureLayout,
  planModelMemory,
  type PlannedMemory,
  processSizes,
  type ProcessSizes,
  totalBytes,
  weightSizes,
  type WeightSizes,
} from "./memory-sizes.ts";
export { Classifier } from "./classifier.ts";
export { draftHeadBytes } from "./speculation/head-runner.ts";
export type { FunctionModule } from "./function-module.ts";
export type { KeepPromptOptions, KeptPrompt } from "./host/kept-prompts.ts";
export type { OpenOptions } from "./host/model-files.ts";
export { openPromptReader } from "./host/prompt-reader.ts";
export { ReadMeEngine } from "./host/read-me-engine.ts";
export { KernelRunner, type KernelRunnerOptions } from "./kernel-runner.ts";
export { openExperts, type OnExpertAdded } from "./experts/loras.ts";
export type { LoadProgress } from "@readme-moe/core";
export type { StepLogits, StepRunner, StepSequence } from "./step-runner.ts";
export { kernelInfo, kernelThreads } from "@readme-moe/kernel";
