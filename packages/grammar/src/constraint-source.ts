// Constraints as plain JSON data, from which another process makes the same ones.

import type { ConstraintSource } from "@readme-moe/core";
import type { JsonSchema } from "./schema/honoured-schema.ts";
import type { TaggedAnswers } from "./tagged-answers.ts";

/** Source of what `Grammars` binds answers to: the method's arguments. */
export type AnswerSource =
  | { readonly kind: "json"; readonly schema: JsonSchema; readonly maxWhitespace: number }
  | { readonly kind: "grammar"; readonly ebnf: string; readonly root: string }
  | { readonly kind: "regex"; readonly pattern: string }
  | { readonly kind: "choice"; readonly texts: readonly string[] }
  | { readonly kind: "tagged"; readonly answers: TaggedAnswers };

/** Source of bounds of reasoning. Vocabulary and end tokens are those of the engine that it is for. */
export interface ReasoningSource {
  readonly kind: "reasoning";
  readonly beginId: number;
  readonly endId: number;
  readonly isOpen: boolean;
  readonly budgetTokens?: number | undefined;
  readonly closingIds: readonly number[];
  readonly gapIds: readonly number[];
  readonly bound?: ConstraintSource | undefined;
}

/** Copies a source as JSON does, so that later changes of a caller's objects do not reach it. */
export function plainCopy(source: AnswerSource): AnswerSource {
  return JSON.parse(JSON.stringify(source)) as AnswerSource;
}
