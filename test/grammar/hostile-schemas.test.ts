// Schemas of clients are read on the caller's event loop: any schema takes little time, and ends in a grammar or in an
// error that names the caller's mistake.

import { Grammars, type JsonSchema } from "@readme-moe/grammar";
import * as fc from "../support/fast-check.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkGrammar } from "../../packages/grammar/src/grammars.ts";
import { Budget } from "../../packages/grammar/src/grammar-source.ts";
import { Exclusion } from "../../packages/grammar/src/schema/types.ts";
import { smallVocabulary } from "../support/bound-text.ts";
import { HOSTILE_SCHEMAS } from "../support/hostile-schemas.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

/** Many times the worst time on a busy machine: work that grows with the square of a text's length takes longer. */
const SOON = { timeout: 30_000 };
const NO_ONE = new Error("Nobody waits");
let grammars: Grammars;
beforeAll(async () => {
  grammars = await Grammars.open(smallVocabulary());
});
afterAll(() => grammars.dispose());

type Start = (options: { readonly signal: AbortSignal }) => Promise<unknown>;

/** Requests a grammar and aborts as soon as the caller's event loop is free. @returns the refusal, if any */
async function ask(start: Start): Promise<Error> {
  const controller = new AbortController();
  const asked = start({ signal: controller.signal });
  controller.abort(NO_ONE);
  return asked.then(
    () => NO_ONE,
    (reason: unknown) => reason as Error,
  );
}

async function expectToldSoon(what: string, start: Start): Promise<void> {
  const error = await ask(start);
  expect(error.message, what).not.toContain("call stack");
  expect(error.message.length, what).toBeLessThan(8_000);
  if (error !== NO_ONE && !(error instanceof RangeError)) expect(error, what).toBeInstanceOf(TypeError);
}

describe.each(Object.entries(HOSTILE_SCHEMAS))("%s", (name, make) => {
  // Sizes near the limits of parts, of a grammar's characters and of a schema's values, and beyond them.
  test.each([30, 500, 1_990, 12_000, 24_000, 80_000])("at size %i", SOON, async (size) => {
    const isDeep = /deep|double|each other/.test(name);
    const schema = make(isDeep ? Math.min(size, 5_000) : size, seededRandom(size));
    await expectToldSoon(name, (options) => grammars.jsonSchema(schema, options));
    const tags = Array.from({ length: 20 }, (_, n) => ({ begin: `<${n}>`, schema, end: ">" }));
    await expectToldSoon(`${name}, in tags`, (options) => grammars.tagged({ tags }, options));
  });
});

test("reads or refuses any mixture soon", async () => {
  const kinds = Object.values(HOSTILE_SCHEMAS);
  for (let seed = 0; seed < 150; seed++) {
    const random = seededRandom(seed);
    const parts = Array.from({ length: 1 + randomInteger(random, 5) }, () => {
      const make = kinds[randomInteger(random, kinds.length)] as (typeof kinds)[number];
      return make(1 + Math.floor(3_000 ** random()), random);
    });
    const way = ["anyOf", "oneOf", "allOf", "prefixItems"][randomInteger(random, 4)] as string;
    const definitions = Object.assign({}, ...parts.map((part) => (part as { $defs?: object }).$defs ?? {})) as object;
    const schema: JsonSchema = { ...(way === "prefixItems" && { type: "array" }), [way]: parts, $defs: definitions };
    await expectToldSoon(`${way} of seed ${seed}`, (options) => grammars.jsonSchema(schema, options));
  }
});

const hostileTexts: Readonly<Record<string, string>> = {
  "classes without an end": `root ::= ${"[".repeat(260_000)}`,
  "escaped quotes without an end": `root ::= ${'\\"'.repeat(130_000)}`,
  "texts without an end": `root ::= ${'"\n'.repeat(130_000)}`,
  "a class of escapes": `root ::= [${"\\u{41}".repeat(43_000)}]`,
  "too much": "x".repeat(50_000_000),
};

test.each(Object.entries(hostileTexts))("reads a grammar of %s soon", SOON, async (name, text) => {
  await expectToldSoon(name, (options) => grammars.grammar(text, "root", options));
  await expectToldSoon(name, (options) => grammars.regex(text, options));
  await expectToldSoon(name, (options) => grammars.choice([text], options));
  await expectToldSoon(name, (options) => grammars.choice(Array.from(text.slice(0, 1_000_000)), options));
  const tags = [{ begin: text, schema: true, end: text }];
  await expectToldSoon(name, (options) => grammars.tagged({ tags }, options));
});

describe("limits", () => {
  const nest = (depth: number): unknown => (depth === 0 ? 1 : [nest(depth - 1)]);
  const refused: readonly (readonly [JsonSchema, string])[] = [
    [{ type: "null", default: nest(3_000) }, "at most 128 levels"],
    [{ enum: Array.from({ length: 50_000 }, (_, n) => n) }, "at most 50000 values"],
    [{ type: "null", examples: Array.from({ length: 50_000 }, (_, n) => n) }, "at most 50000 values"],
    [{ type: "null", default: "x".repeat(262_144) }, "at most 262144 characters"],
    [{ enum: Array.from({ length: 30_000 }, (_, n) => n) }, "a grammar of at most 262144 characters"],
    [{ type: "string", pattern: "a".repeat(16_385) }, "a pattern of at most 16384 characters"],
    [{ anyOf: Array.from({ length: 2_000 }, () => true) }, "at most 2000 parts"],
  ];

  test.each(refused)("are named (%#)", async (schema, message) => {
    const error = await ask((options) => grammars.jsonSchema(schema, options));
    expect(error).toBeInstanceOf(RangeError);
    expect(error.message).toContain(message);
  });

  const allowed: readonly JsonSchema[] = [
    { type: "null", description: "x".repeat(1_000_000), title: "y".repeat(1_000_000) },
    { enum: Array.from({ length: 8_000 }, (_, n) => n % 10) },
    { oneOf: Array.from({ length: 900 }, (_, n) => ({ const: n })) },
    {
      oneOf: Array.from({ length: 400 }, (_, n) => ({
        type: "object",
        properties: { kind: { const: `k${n}` }, more: { type: "boolean" } },
        required: ["kind"],
      })),
    },
    { type: "string", pattern: "ab".repeat(2_000) },
    { type: "object", properties: Object.fromEntries(Array.from({ length: 900 }, (_, n) => [`p${n}`, true])) },
  ];

  test.each(allowed)("allow large honest schemas (%#)", async (schema) => {
    expect(await ask((options) => grammars.jsonSchema(schema, options))).toBe(NO_ONE);
  });
});

type Part = Readonly<Record<string, unknown>>;
type Kinds = ReadonlySet<string> | undefined;

// The definition, pair by pair.
const valuesOf = (part: unknown): readonly unknown[] | undefined => (part as { enum?: unknown[] } | undefined)?.enum;
const kindsOf = (part: Part, narrowed: ReadonlySet<Part>): Kinds => {
  if (narrowed.has(part)) return undefined;
  if (part["type"]) return new Set([part["type"] === "integer" ? "number" : (part["type"] as string)]);
  const values = valuesOf(part);
  if (values) return new Set(values.map((value) => (value === null ? "null" : typeof value)));
  const inner = ((part["anyOf"] ?? [{}]) as Part[]).map((one) => kindsOf(one, narrowed));
  return inner.includes(undefined) ? undefined : new Set(inner.flatMap((one) => [...(one ?? [])]));
};
const apart = (one?: readonly unknown[], other?: readonly unknown[]): boolean =>
  one !== undefined && other !== undefined && !one.some((value) => other.includes(value));
const arePairApart = (one: Part, other: Part, narrowed: ReadonlySet<Part>): boolean => {
  const [kinds, others] = [kindsOf(one, narrowed), kindsOf(other, narrowed)];
  if (kinds && others && ![...kinds].some((kind) => others.has(kind))) return true;
  if (apart(valuesOf(one), valuesOf(other))) return true;
  const [own, their] = [one, other].map((part) => (part["properties"] ?? {}) as Record<string, unknown>);
  const needed = ((one["required"] ?? []) as string[]).filter((name) =>
    ((other["required"] ?? []) as string[]).includes(name),
  );
  return needed.some((name) => apart(valuesOf(own?.[name]), valuesOf(their?.[name])));
};

describe("alternatives that exclude each other", () => {
  const values = fc.array(fc.constantFrom(0, 1, 2, "0", "1", "a", null, true), { minLength: 1, maxLength: 2 });
  const listed = fc.record({ enum: values });
  const typed = fc.record({ type: fc.constantFrom("string", "integer", "number", "boolean", "null", "array") });
  const objects = fc
    .dictionary(fc.constantFrom("a", "b", "c"), fc.oneof(listed, typed), { minKeys: 1 })
    .chain((properties) =>
      fc.record({
        type: fc.constant("object"),
        properties: fc.constant(properties),
        required: fc.subarray(Object.keys(properties)),
      }),
    );
  const anything = fc.oneof(
    listed,
    typed,
    objects,
    fc.record({ anyOf: fc.array(fc.oneof(listed, typed), { minLength: 2 }) }),
  );
  const parts = fc.oneof(
    fc.array(anything, { maxLength: 5 }),
    fc.array(listed, { maxLength: 5 }),
    fc.array(objects, { maxLength: 4 }),
  );

  test("are found as by comparing every pair", () => {
    let [numRuns, numApart] = [0, 0];
    const property = fc.property(parts, fc.integer({ min: 0, max: 20 }), (list: readonly Part[], hard) => {
      numRuns++;
      // Parts with lists of values are never narrowed.
      const narrowed = new Set(list.filter((part, index) => hard === index && !("enum" in part)));
      const known = { resolve: (part: Part) => part, isNarrowed: (part: Part) => narrowed.has(part) };
      const expected = list.every((one, index) =>
        list.slice(index + 1).every((other) => arePairApart(one, other, narrowed)),
      );
      if (expected && list.length > 2) numApart++;
      expect(new Exclusion(known, new Budget()).isDisjoint(list)).toBe(expected);
    });
    fc.assert(property, { seed: 5, numRuns: 4_000 });
    expect(numApart).toBeGreaterThan(numRuns / 80);
  });
});

function refuses(ebnf: string): boolean {
  try {
    checkGrammar(ebnf);
    return false;
  } catch (error) {
    return error instanceof TypeError;
  }
}

test("finds all classes outside ASCII, and no others", () => {
  const piece = fc.constantFrom("[", "]", '"', "\\", "#", "\n", "é", "a", "\\u00e9", "\\x41", " ");
  // Grammars of complete texts, classes and comments; unfinished ones are invalid.
  const whole = fc
    .array(piece, { maxLength: 12 })
    .map((pieces) => pieces.join(""))
    .filter((ebnf) => /^(?:"(?:[^"\\\n]|\\[^])*"|#[^\n]*|\[(?:[^\]\\]|\\[^])*\]|[^"#[])*$/.test(ebnf));
  const property = fc.property(whole, (ebnf) => {
    const classes = (ebnf.match(/"(?:[^"\\\n]|\\[^])*"|#[^\n]*|\[(?:[^\]\\]|\\[^])*\]/g) ?? []).filter(
      (one) => one[0] === "[",
    );
    expect(refuses(ebnf), ebnf).toBe(classes.some((one) => /é|\\u00e9/.test(one)));
  });
  fc.assert(property, { seed: 3, numRuns: 3_000 });
});
