// With any logits, answers are JSON that another validator finds valid under the schema.

import { Grammars, type JsonSchema } from "@readme-moe/grammar";
import { Ajv2020 } from "ajv/dist/2020.js";
import * as fc from "../support/fast-check.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { allowedAfter, smallVocabulary, writeBound } from "../support/bound-text.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { seededRandom } from "../support/random.ts";

/** Number of answers under each schema. */
const COUNT = RUNS_LONG_TESTS ? 24 : 4;

const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true });
const vocabulary = smallVocabulary();
let grammars: Grammars;
beforeAll(async () => {
  grammars = await Grammars.open(vocabulary);
});
afterAll(() => grammars.dispose());

async function expectValid(schema: JsonSchema, seed: number, count: number): Promise<readonly unknown[]> {
  const constraint = await grammars.jsonSchema(schema);
  const validate = ajv.compile(schema);
  const random = seededRandom(seed);
  const values: unknown[] = [];
  for (let patience = 0; patience < count; patience++) {
    const { text, isWhole } = await writeBound(constraint, vocabulary, random, { patience });
    if (!isWhole) continue;
    const value: unknown = JSON.parse(text);
    expect(validate(value), `${text} under ${JSON.stringify(schema)}: ${ajv.errorsText(validate.errors)}`).toBe(true);
    values.push(value);
  }
  return values;
}

const recursive = {
  $ref: "#/$defs/list",
  $defs: {
    list: {
      type: "object",
      properties: { value: { type: "integer" }, next: { anyOf: [{ $ref: "#/$defs/list" }, { type: "null" }] } },
      required: ["value", "next"],
    },
  },
};

const schemas: readonly JsonSchema[] = [
  true,
  { type: "object" },
  { type: "integer", minimum: -17, maximum: 230 },
  { type: "integer", minimum: 5 },
  { type: "integer", maximum: -5 },
  { type: "integer", exclusiveMinimum: -3.5, exclusiveMaximum: 1_000_000 },
  { type: "number", minimum: -2.5, maximum: 10 },
  { type: "number", exclusiveMinimum: 0, exclusiveMaximum: 1 },
  { type: "number", maximum: -0.25 },
  { type: "number", minimum: 0.001, maximum: 0.002 },
  { type: "number", minimum: 12.3, exclusiveMaximum: 12.39 },
  { type: "string", minLength: 2, maxLength: 5 },
  { type: "string", minLength: 3 },
  { type: "string", maxLength: 0 },
  { type: "string", pattern: "^[^a]+.$" },
  { type: "string", pattern: "a|b\\.c" },
  { type: "string", pattern: '^["\\\\\\n]{2}$' },
  { type: "string", pattern: "^[é-ü中]{2}\\D(?:x|y)?$" },
  { type: "string", pattern: "^\\W\\w\\S\\s\\x41\\u0042[\\t\\n\\r\\f\\v\\b]\\x5a$" },
  { enum: ['é"\\\n', 1, 2.5, null, true, 1e21, "\u2028</", "😀"] },
  { type: ["integer", "null"], enum: ["a", 3, null, 2.5] },
  { const: "x" },
  { type: "array", items: { type: "integer" }, minItems: 2, maxItems: 3 },
  { type: "array", items: false },
  { type: "array", prefixItems: [{ type: "integer" }, { type: "boolean" }] },
  { type: "array", minItems: 1 },
  {
    type: "object",
    properties: { a: { type: "string" }, b: { type: "integer" }, c: { type: "null" } },
    required: ["b"],
  },
  { properties: { 'a"é\n': { type: "boolean" }, "": { type: "boolean" } }, required: ['a"é\n', ""] },
  { type: "object", additionalProperties: { type: "integer" } },
  { type: "object", required: ["x"] },
  { type: "object", additionalProperties: false },
  { type: ["string", "null"], maxLength: 3 },
  { anyOf: [{ type: "integer" }, { type: "array", items: { type: "boolean" } }] },
  {
    oneOf: [
      { type: "object", properties: { kind: { const: "a" }, x: { type: "integer" } }, required: ["kind", "x"] },
      { type: "object", properties: { kind: { const: "b" } }, required: ["kind"] },
    ],
  },
  recursive,
];

test.each(schemas.map((schema) => [JSON.stringify(schema), schema] as const))(
  "answers are valid under %s",
  async (_, schema) => {
    expect((await expectValid(schema, 1, COUNT)).length).toBeGreaterThan(0.6 * COUNT);
  },
);

const formats: Readonly<Record<string, (text: string) => boolean>> = {
  date: (text) => !Number.isNaN(Date.parse(`${text}T00:00:00Z`)),
  time: (text) => !Number.isNaN(Date.parse(`2020-01-01T${text}`)),
  "date-time": (text) => !Number.isNaN(Date.parse(text)),
  uuid: (text) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text),
  ipv4: (text) =>
    text.split(".").length === 4 &&
    text.split(".").every((part) => String(Number(part)) === part && Number(part) < 256),
  ipv6: (text) => URL.canParse(`http://[${text}]/`),
  hostname: (text) => text.split(".").every((label) => /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(label)),
  email: (text) => /^[^@\s]+@[^@\s]+\.[^@\s]+$/.test(text),
  uri: (text) => /^[a-z]+:\/\/\S+$/.test(text),
};
test.each(Object.keys(formats))("writes strings in the format %s", async (format) => {
  const texts = await expectValid({ type: "string", format }, 2, COUNT);
  expect(texts.length).toBeGreaterThan(0.8 * COUNT);
  for (const text of texts) expect(formats[format]?.(text as string), String(text)).toBe(true);
});

const scalar = fc.oneof(
  fc.constant({ type: "boolean" }),
  fc.constant({ type: "null" }),
  fc
    .record({ minLength: fc.nat(3), maxLength: fc.integer({ min: 3, max: 6 }) })
    .map((one) => ({ type: "string", ...one })),
  fc
    .tuple(fc.integer({ min: -2000, max: 2000 }), fc.oneof(fc.nat(3), fc.nat(5000)), fc.boolean(), fc.boolean())
    .map(([least, more, isLowOpen, isHighOpen]) => ({
      type: "integer",
      ...(isLowOpen ? { exclusiveMinimum: least - 1 } : { minimum: least }),
      ...(isHighOpen ? { exclusiveMaximum: least + more + 1 } : { maximum: least + more }),
    })),
  fc
    .tuple(
      fc.integer({ min: -30_000, max: 30_000 }),
      fc.integer({ min: 1, max: 30_000 }),
      fc.constantFrom(1, 10, 1000),
      fc.boolean(),
      fc.boolean(),
    )
    .map(([low, more, scale, isLowOpen, isHighOpen]) => ({
      type: "number",
      [isLowOpen ? "exclusiveMinimum" : "minimum"]: low / scale,
      [isHighOpen ? "exclusiveMaximum" : "maximum"]: (low + more) / scale,
    })),
  fc
    .uniqueArray(fc.oneof(fc.string({ unit: "grapheme" }), fc.integer(), fc.boolean()), { minLength: 1, maxLength: 4 })
    .map((values) => ({ enum: values })),
);
const { schema: randomSchema } = fc.letrec<{ schema: Readonly<Record<string, unknown>> }>((tie) => ({
  schema: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    scalar,
    fc
      .dictionary(
        fc.string({ unit: "grapheme", maxLength: 4 }).filter((name) => name !== "__proto__"),
        fc.tuple(tie("schema"), fc.boolean()),
        { minKeys: 1, maxKeys: 4 },
      )
      .map((entries) => ({
        type: "object",
        properties: Object.fromEntries(Object.entries(entries).map(([name, [part]]) => [name, part])),
        required: Object.keys(entries).filter((name) => entries[name]?.[1]),
      })),
    fc
      .tuple(tie("schema"), fc.nat(2), fc.nat(2))
      .map(([items, minItems, more]) => ({ type: "array", items, minItems, maxItems: minItems + more })),
    fc.array(tie("schema"), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
  ),
}));

test("allows only valid answers under any schema", async () => {
  let numWhole = 0;
  await fc.assert(
    fc.asyncProperty(randomSchema, fc.integer(), async (schema, seed) => {
      numWhole += (await expectValid(schema, seed, 3)).length;
    }),
    { numRuns: 15, seed: 7 },
  );
  expect(numWhole).toBeGreaterThan(30);
});

test("makes every prefix the beginning of an answer", async () => {
  const constraint = await grammars.jsonSchema(recursive);
  const { ids, isWhole } = await writeBound(constraint, vocabulary, seededRandom(3), { patience: 30 });
  expect(isWhole).toBe(true);
  for (let length = 0; length < ids.length; length++) {
    const text = await writeBound(constraint, vocabulary, seededRandom(length), {
      patience: 0,
      ids: ids.slice(0, length),
    });
    expect(text.isWhole).toBe(true);
    expect(ajv.compile(recursive)(JSON.parse(text.text))).toBe(true);
  }
});

test("limits white space between parts", async () => {
  const constraint = await grammars.jsonSchema({ type: "array", items: { type: "integer" } }, { maxWhitespace: 0 });
  const random = seededRandom(5);
  for (let patience = 0; patience < 30; patience++) {
    expect((await writeBound(constraint, vocabulary, random, { patience })).text).not.toMatch(/\s/);
  }
});

test("ends an answer exactly when it is complete", async () => {
  const constraint = await grammars.jsonSchema({ const: "ab" });
  const [end] = vocabulary.eosTokenIds;
  const ids = Array.from(Buffer.from('"ab"'));
  for (let length = 0; length < ids.length; length++) {
    expect(await allowedAfter(constraint, vocabulary, ids.slice(0, length))).not.toContain(end);
  }
  expect(await allowedAfter(constraint, vocabulary, ids)).toEqual([end]);
  expect(await allowedAfter(constraint, vocabulary, [...ids, end as number])).toEqual([end]);
});
