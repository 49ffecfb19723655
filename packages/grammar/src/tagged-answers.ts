import { describeValue } from "@readme-moe/core";
import { Budget, type GrammarSource, type GrammarText } from "./grammar-source.ts";
import { schemaGrammars } from "./schema/ebnf/schema-grammar.ts";
import { honouredSchema, type JsonSchema } from "./schema/honoured-schema.ts";
import { checkSchemaSizes } from "./schema/schema-size.ts";

const MAX_WHITESPACE = 16;

/** JSON that is valid under a schema, between two fixed texts. */
export interface TaggedJson {
  readonly begin: string;
  readonly schema: JsonSchema;
  readonly end: string;
}

/** Answers with JSON between fixed texts, such as tool calls, with or without free text around them. */
export interface TaggedAnswers {
  readonly tags: readonly TaggedJson[];
  /** Allows free text before, between and after tags. Once `trigger` appears in it, a tag has to follow. */
  readonly trigger?: string | undefined;
  /** Text between two tags where there is no free text. @default "\n" */
  readonly separator?: string | undefined;
  /** Ends the answer after the first tag. @default false */
  readonly isSingle?: boolean | undefined;
}

/** Describes the answers by structural tags of the library. @throws as `honouredSchema` */
export function taggedSource(answers: TaggedAnswers): GrammarSource {
  const { tags, trigger, separator = "\n" } = answers;
  if (!isList(tags)) throw new TypeError(`Expected \`tags\` to be a list, got ${describeValue(tags)}`);
  const budget = new Budget();
  const fixed: readonly unknown[] = [trigger ?? "", separator, ...tags.flatMap(({ begin, end }) => [begin, end])];
  for (const text of fixed) {
    if (typeof text !== "string") throw new TypeError(`Expected texts around schemas, got ${describeValue(text)}`);
    budget.write(text.length);
  }
  checkSchemaSizes(tags.map(({ schema }) => schema));
  const grammars = tags.map(({ schema }) => schemaGrammars(honouredSchema(schema, budget), MAX_WHITESPACE, budget));
  const exact = tagsGrammar(
    answers,
    grammars.map(({ text }) => text),
  );
  const wide = grammars.flatMap((one) => one.wide ?? []);
  const areWide = wide.length === grammars.length && wide.some(({ hadBounds }) => hadBounds);
  if (!areWide || mayMix(answers)) return exact;
  const grammar = tagsGrammar(
    answers,
    wide.map(({ text }) => text),
  );
  return { ...exact, wide: { grammar, hasPatterns: wide.some(({ hasPatterns }) => hasPatterns) } };
}

/** Whether the text may be in two tags at once. */
function mayMix({ tags }: TaggedAnswers): boolean {
  return tags.some(({ begin }, index) => tags.some((other, at) => at !== index && other.begin.startsWith(begin)));
}

/** Writes tags with these grammars as a structural tag. */
function tagsGrammar(answers: TaggedAnswers, grammars: readonly string[]): GrammarText {
  const { tags, trigger, separator = "\n", isSingle = false } = answers;
  const formats = tags.map(({ begin, end }, index) => ({
    type: "tag",
    begin,
    content: { type: "grammar", grammar: grammars[index] },
    end,
  }));
  const format =
    trigger === undefined
      ? { type: "tags_with_separator", tags: formats, separator, at_least_one: true, stop_after_first: isSingle }
      : { type: "triggered_tags", triggers: [trigger], tags: formats, stop_after_first: isSingle };
  return { kind: "tags", format: JSON.stringify({ type: "structural_tag", format }) };
}

function isList(value: unknown): boolean {
  return Array.isArray(value);
}
