export type { Constraint } from "./constraint.ts";
export { Grammars, type JsonOptions } from "./grammars.ts";
export type { GrammarsOptions } from "./grammars-options.ts";
export type { JsonSchema } from "./schema/honoured-schema.ts";
export type { TaggedAnswers, TaggedJson } from "./tagged-answers.ts";
