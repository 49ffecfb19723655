export { decoderGraph } from "./decoder-graph.ts";
export { resolveEngineOptions, type EngineOptions } from "./engine-options.ts";
export { evaluate, type EvaluateOptions, type Evaluation } from "./evaluate.ts";
export { ReadMeEngine, type OpenOptions } from "./host/read-me-engine.ts";
export { ModelRunner, type RunnerOptions, type StepLogits } from "./model-runner.ts";
export type { LoadProgress } from "./protocol.ts";
export type { StepSequence } from "./step-feeds.ts";
