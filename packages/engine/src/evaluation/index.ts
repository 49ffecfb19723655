// Public names of `@readme-moe/engine/evaluation`.

export {
  type Accuracy,
  evaluate,
  type EvaluatedModel,
  evaluateMultipleChoice,
  type EvaluateOptions,
  evaluatePassages,
  evaluatePerExpert,
  evaluateSequences,
  type Evaluation,
  type ExpertEvaluation,
  type MultipleChoiceEvaluation,
  type MultipleChoiceOptions,
  type Question,
  type QuestionScores,
  type RoutedEvaluation,
} from "./evaluate.ts";
export { type Choice, type Passage, type PassageOptions, passagesOf, tokenSequences } from "./passages.ts";
export type { ScoreOptions } from "./score-passages.ts";
