// Requests for JSON by a schema: flat, nested, arrays of objects with names from a list, numbers.

import type { JsonSchema } from "@readme-moe/grammar";
import { type Documents, sentencesOf } from "./documents.ts";
import { type DraftedRequest, GREEDY, sampled, type Turn } from "./request.ts";

const text = (maxLength: number): JsonSchema => ({ type: "string", minLength: 1, maxLength });
const number = (minimum: number, maximum: number): JsonSchema => ({ type: "integer", minimum, maximum });
const object = (properties: Readonly<Record<string, JsonSchema>>): JsonSchema => ({
  type: "object",
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
});
const list = (items: JsonSchema, minItems: number, maxItems: number): JsonSchema => ({
  type: "array",
  items,
  minItems,
  maxItems,
});

// Shows the style of an answer, with none of its names and values: those would be copied.
const EXAMPLE: readonly Turn[] = [
  { role: "user", content: "Describe a red apple as JSON with kind and colours." },
  { role: "assistant", content: '{"kind": "fruit", "colours": ["red", "green"]}' },
];

/** Schemas with their tasks, by name. */
export const SCHEMAS: Readonly<Record<string, { readonly ask: string; readonly schema: JsonSchema }>> = {
  flat: {
    ask: "Describe the text as JSON with title, subject, language, audience and number of sentences.",
    schema: object({
      title: text(60),
      subject: text(40),
      language: { enum: ["English", "French", "German", "Spanish"] },
      audience: { enum: ["children", "students", "researchers", "general public"] },
      number_of_sentences: number(1, 20),
      is_fiction: { type: "boolean" },
    }),
  },
  nested: {
    ask: "Describe the text as JSON: source with kind and place, and contents with summary and keywords.",
    schema: object({
      source: object({ kind: { enum: ["article", "book", "letter", "web page"] }, place: text(30) }),
      contents: object({ summary: text(120), keywords: list(text(20), 2, 4) }),
      rating: object({ clarity: number(1, 5), interest: number(1, 5) }),
    }),
  },
  entities: {
    ask: "List the people, places and things that the text names, as JSON.",
    schema: object({
      entities: list(
        object({
          entity_name: text(30),
          entity_type: { enum: ["person", "place", "organisation", "date", "other"] },
          importance: { enum: ["low", "medium", "high"] },
        }),
        3,
        6,
      ),
    }),
  },
  numbers: {
    ask: "Rate each of four aspects of the text from 0 to 100, as JSON.",
    schema: object({
      ratings: list(
        object({ aspect: text(20), score: number(0, 100), confidence: { type: "number", minimum: 0, maximum: 1 } }),
        4,
        4,
      ),
      overall_score: number(0, 100),
    }),
  },
};

const LIMITS = { minChars: 200, maxChars: 420 };

/** Makes requests of all schemas by turns; the second of two documents is sampled. */
export function jsonRequests({ prose }: Documents): readonly DraftedRequest[] {
  const schemas = Object.entries(SCHEMAS);
  const passages = prose.flatMap((document) => {
    const sentences = sentencesOf(document, LIMITS);
    return sentences ? [{ document, passage: sentences.join(" ") }] : [];
  });
  return passages.map(({ document, passage }, index) => {
    const [name, { ask, schema }] = schemas[index % schemas.length] as (typeof schemas)[number];
    const isSampled = Math.floor(index / schemas.length) % 2 === 1;
    return {
      kind: "json",
      name: `${name} ${document.name}${isSampled ? " sampled" : ""}`,
      prompt: [...EXAMPLE, { role: "user", content: `${ask}\n\n${passage}` }],
      params: isSampled ? sampled(index) : GREEDY,
      schema: { name, schema },
    };
  });
}
