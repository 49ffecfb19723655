export { kvSizes, resolveEngineOptions, type EngineOptions, type KvSizes } from "./engine-options.ts";
export type { Choice } from "./evaluation/choice-passage.ts";
export {
  evaluate,
  evaluatePassages,
  evaluateSequences,
  type EvaluateOptions,
  type Evaluation,
} from "./evaluation/evaluate.ts";
export {
  type Accuracy,
  evaluateMultipleChoice,
  type MultipleChoiceEvaluation,
  type MultipleChoiceOptions,
  type Question,
  type QuestionScores,
} from "./evaluation/multiple-choice.ts";
export type { Passage } from "./evaluation/passage.ts";
export { type PassageOptions, passagesOf, tokenSequences } from "./evaluation/passages.ts";
export { evaluatePerExpert, type ExpertEvaluation, type RoutedEvaluation } from "./evaluation/per-expert.ts";
export type { ScoreOptions } from "./evaluation/score-passages.ts";
export type { FunctionModule } from "./function-module.ts";
export type { SchedulingOptions } from "./scheduling-options.ts";
export { ReadMeEngine, type OpenOptions } from "./host/read-me-engine.ts";
export type { RunnerOptions } from "./runner-options.ts";
export { KernelRunner, type KernelRunnerOptions } from "./kernel-runner.ts";
export { kvPrecisionOf } from "./kv-precision.ts";
export type { StepLogits } from "./step-logits.ts";
export type { LoadProgress } from "./protocol.ts";
export type { StepRunner, StepSequence } from "./step-runner.ts";
export { expertLayout, weightSizes, type WeightSizes } from "./weight-sizes.ts";
export { kernelInfo, kernelThreads } from "@readme-moe/kernel";
