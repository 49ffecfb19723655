export { decoderGraph } from "./decoder-graph.ts";
export { evaluate, type EvaluateOptions, type Evaluation } from "./evaluate.ts";
export { generateGreedy, type FinishReason, type GenerateOptions } from "./generate.ts";
export { ModelRunner, type RunnerOptions, type StepLogits } from "./model-runner.ts";
export type { StepSequence } from "./step-feeds.ts";
