export {
  ANSWER_START,
  type AnswerSource,
  type Constraint,
  formatSource,
  type ProcessorOptions,
  type Tag,
  type TaggedAnswers,
  type TaggedJson,
} from "./constraint.ts";
export { Grammars, type JsonOptions } from "./grammars.ts";
export type { Asker, GrammarsOptions } from "./grammars-options.ts";
export { checkSchemaSizes, type JsonSchema } from "./schema/honoured-schema.ts";
export { openConstraint, type ConstraintSurroundings } from "./open-constraint.ts";
export { limitReasoning, type ReasoningRule, type ReasoningSource } from "./reasoning-limit.ts";
