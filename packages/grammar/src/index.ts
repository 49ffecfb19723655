export type { Constraint, ProcessorOptions } from "./constraint.ts";
export { formatSource, type AnswerSource } from "./constraint-source.ts";
export { Grammars, type JsonOptions } from "./grammars.ts";
export type { Asker, GrammarsOptions } from "./grammars-options.ts";
export type { JsonSchema } from "./schema/honoured-schema.ts";
export { openConstraint, type ConstraintSurroundings } from "./open-constraint.ts";
export { limitReasoning, type ReasoningRule, type ReasoningSource } from "./reasoning-limit.ts";
export { checkSchemaSizes } from "./schema/schema-size.ts";
export type { TaggedAnswers, TaggedJson } from "./tagged-answers.ts";
