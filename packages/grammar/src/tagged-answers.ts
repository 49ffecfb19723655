import { describeValue } from "@readme-moe/core";
import { Budget } from "./grammar-source.ts";
import { schemaGrammar } from "./schema/ebnf/schema-grammar.ts";
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

/** Describes the answers as a structural tag of the library. @throws as `honouredSchema` */
export function tagsFormat({ tags, trigger, separator = "\n", isSingle = false }: TaggedAnswers): object {
  if (!Array.isArray(tags)) throw new TypeError(`Expected \`tags\` to be a list, got ${describeValue(tags)}`);
  const budget = new Budget();
  const fixed = [
    trigger ?? "",
    separator,
    ...(tags as readonly TaggedJson[]).flatMap(({ begin, end }) => [begin, end]),
  ];
  for (const text of fixed as readonly unknown[]) {
    if (typeof text !== "string") throw new TypeError(`Expected texts around schemas, got ${describeValue(text)}`);
    budget.write(text.length);
  }
  checkSchemaSizes((tags as readonly TaggedJson[]).map(({ schema }) => schema));
  const formats = (tags as readonly TaggedJson[]).map(({ begin, schema, end }) => ({
    type: "tag",
    begin,
    content: { type: "grammar", grammar: schemaGrammar(honouredSchema(schema, budget), MAX_WHITESPACE, budget) },
    end,
  }));
  const format =
    trigger === undefined
      ? { type: "tags_with_separator", tags: formats, separator, at_least_one: true, stop_after_first: isSingle }
      : { type: "triggered_tags", triggers: [trigger], tags: formats, stop_after_first: isSingle };
  return { type: "structural_tag", format };
}
