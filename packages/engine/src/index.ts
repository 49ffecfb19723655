export { decoderGraph } from "./decoder-graph.ts";
export { resolveEngineOptions, type EngineOptions } from "./engine-options.ts";
export { evaluate, evaluateSequences, type EvaluateOptions, type Evaluation, tokenSequences } from "./evaluate.ts";
export { ReadMeEngine, type OpenOptions } from "./host/read-me-engine.ts";
export { ModelRunner, type RunnerOptions, type StepLogits } from "./model-runner.ts";
export type { LoadProgress } from "./protocol.ts";
export type { StepSequence } from "./step-feeds.ts";
export { productKinds } from "./product-kinds.ts";
