export type { Constraint, ProcessorOptions } from "./constraint.ts";
export { Grammars, type JsonOptions } from "./grammars.ts";
export type { Asker, GrammarsOptions } from "./grammars-options.ts";
export type { JsonSchema } from "./schema/honoured-schema.ts";
export { checkSchemaSizes } from "./schema/schema-size.ts";
export type { TaggedAnswers, TaggedJson } from "./tagged-answers.ts";
