// Keywords that are not supported are refused by name; none is ignored.

import { Grammars, type JsonSchema } from "@readme-moe/grammar";
import { afterAll, beforeAll, expect, test } from "vitest";
import { smallVocabulary } from "../support/bound-text.ts";

let grammars: Grammars;
beforeAll(async () => {
  grammars = await Grammars.open(smallVocabulary());
});
afterAll(() => grammars.dispose());

const inside = (part: unknown): JsonSchema => ({ type: "object", properties: { "a/b": part } });

const refused: readonly (readonly [unknown, ...string[]])[] = [
  [{ not: {} }, "`not`", "#/properties/a~1b"],
  [{ if: {}, else: {} }, "`if`"],
  [{ type: "object", patternProperties: {} }, "`patternProperties`"],
  [{ type: "object", minProperties: 1 }, "`minProperties`"],
  [{ type: "object", properties: { a: {} }, additionalProperties: {} }, "`additionalProperties`"],
  [{ type: "object", required: ["x"], additionalProperties: false }, "requires"],
  [{ type: "array", uniqueItems: true }, "`uniqueItems`"],
  [{ type: "array", contains: {} }, "`contains`"],
  [{ type: "array", prefixItems: [{}], minItems: 3 }, "`prefixItems`"],
  [{ type: "array", minItems: 3, maxItems: 2 }, "`minItems`"],
  [{ type: "array", items: false, minItems: 1 }, "no array"],
  [{ type: "number", multipleOf: 0.5 }, "`multipleOf`"],
  [{ type: "number", minimum: 1e-7 }, "`minimum`", "digits"],
  [{ type: "number", minimum: 2, exclusiveMaximum: 2 }, "no number"],
  [{ type: "integer", minimum: 0.2, maximum: 0.8 }, "no integer"],
  [{ type: "string", minimum: 1 }, "`minimum`", "type string"],
  [{ type: ["string", "boolean"], minimum: 1 }, "`minimum`", "for type string, boolean"],
  [{ type: "string", format: "color" }, "`format`", "color"],
  [{ type: "string", pattern: "a", maxLength: 3 }, "more than one of"],
  [{ type: "string", minLength: 100_000 }, "`minLength`"],
  [{ type: "string", pattern: "(?=a)b" }, "`pattern`", "a look ahead"],
  [{ type: "string", pattern: "(a)\\1" }, "`pattern`", "\\1"],
  [{ type: "string", pattern: "a{1,100000}" }, "`pattern`", "512"],
  [{ type: "string", pattern: "(" }, "`pattern`"],
  [{ type: "strin" }, "`type`", "strin"],
  [{ enum: [] }, "no value"],
  [{ enum: [{}] }, "an object"],
  [{ anyOf: [] }, "`anyOf`"],
  [{ anyOf: [{}], type: "string" }, "`type`", "`anyOf`"],
  [{ allOf: [{}, {}] }, "`allOf`"],
  [{ oneOf: [{ type: "integer" }, { type: "number" }] }, "`oneOf`"],
  [{ oneOf: [{ minLength: 3 }, { type: "number" }] }, "`oneOf`"],
  [{ $ref: "#/$defs/none" }, "`$ref`", "nothing"],
  [{ $ref: "other.json" }, "`$ref`"],
  [{ $ref: "#/properties/a~1b" }, "`$ref`", "itself"],
  [false, "`false`"],
  ["string", "expected an object"],
];

test.each(refused.map((one) => [JSON.stringify(one[0]), ...one] as const))("%s", async (_, part, ...parts) => {
  const failure = grammars.jsonSchema(inside(part));
  await expect(failure).rejects.toThrow(TypeError);
  for (const text of parts) await expect(failure).rejects.toThrow(text);
});

test("names no type for a keyword that no type has", async () => {
  await expect(grammars.jsonSchema({ not: {} })).rejects.toThrow(/has `not`, which is not supported$/);
});

test("refuses a schema without a finite answer", async () => {
  const endless = { type: "object", properties: { next: { $ref: "#" } }, required: ["next"] };
  await expect(grammars.jsonSchema(endless)).rejects.toThrow("comes to an end");
  await expect(grammars.jsonSchema({ ...endless, required: [] })).resolves.toBeDefined();
});

test("refuses schemas that are too deep or too large", async () => {
  const nest = (depth: number): JsonSchema => (depth === 0 ? true : { type: "array", items: nest(depth - 1) });
  await expect(grammars.jsonSchema(nest(5000))).rejects.toThrow(RangeError);
  const wide = Object.fromEntries(Array.from({ length: 5000 }, (_, index) => [`p${index}`, {}]));
  await expect(grammars.jsonSchema({ type: "object", properties: wide })).rejects.toThrow(RangeError);
  const circle: Record<string, unknown> = { type: "array" };
  circle["items"] = circle;
  await expect(grammars.jsonSchema(circle)).rejects.toThrow(RangeError);
});

test("ignores annotations", async () => {
  const schema = { title: "t", description: "d", default: 1, examples: [2], $comment: "c", "x-note": {}, type: "null" };
  await expect(grammars.jsonSchema(schema)).resolves.toBeDefined();
});
