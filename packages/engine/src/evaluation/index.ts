// Public names of `@readme-moe/engine/evaluation`.

export {
  evaluate,
  type EvaluatedModel,
  type EvaluateOptions,
  evaluatePassages,
  evaluatePerExpert,
  evaluateSequences,
  type Evaluation,
  type ExpertEvaluation,
  type RoutedEvaluation,
} from "./evaluate.ts";
export {
  type Accuracy,
  evaluateMultipleChoice,
  type MultipleChoiceEvaluation,
  type MultipleChoiceOptions,
  type Question,
  type QuestionScores,
} from "./multiple-choice.ts";
export { type Choice, type Passage, type PassageOptions, passagesOf, tokenSequences } from "./passages.ts";
export type { ScoreOptions } from "./score-passages.ts";
