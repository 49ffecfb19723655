// Schemas that are made to cost much: each kind aims at one part of what reads them.

import type { JsonSchema } from "@readme-moe/grammar";
import { randomInteger } from "./random.ts";

type Schema = Record<string, unknown>;

/** @param size - of the order of its parts; what it comes to in all depends on the kind */
type Hostile = (size: number, random: () => number) => JsonSchema;

const times = <Item>(count: number, item: (index: number) => Item): Item[] =>
  Array.from({ length: count }, (_, index) => item(index));
const named = <Item>(count: number, item: (index: number) => Item, prefix = "p"): Record<string, Item> =>
  Object.fromEntries(times(count, (index) => [`${prefix}${index}`, item(index)]));
const root = (count: number): number => Math.ceil(Math.sqrt(count));
const nested = (depth: number, wrap: (inner: unknown) => unknown, inner: unknown = {}): unknown =>
  times(depth, (index) => index).reduce((whole) => wrap(whole), inner);
const object = (properties: Schema, more: Schema = {}): Schema => ({ type: "object", properties, ...more });
const marked = (count: number, mark: (index: number) => Schema): Schema => ({
  oneOf: times(count, (index) => {
    const properties = mark(index);
    return object(properties, { required: Object.keys(properties) });
  }),
});

export const HOSTILE_SCHEMAS: Readonly<Record<string, Hostile>> = {
  "two large enums, one of both": (size) => ({
    oneOf: [{ enum: times(size, (n) => n) }, { enum: times(size, (n) => n + size) }],
  }),
  "many enums, one of all": (size) => ({
    oneOf: times(root(size), (n) => ({ enum: times(root(size), (m) => n * root(size) + m) })),
  }),
  "alternatives of alternatives": (size) => ({
    anyOf: times(root(size), (n) => ({ anyOf: times(root(size), (m) => ({ const: n * root(size) + m })) })),
  }),
  "objects that no one property tells apart": (size) =>
    marked(root(size), (n) => named(root(size), (m) => ({ enum: [n === m ? "mine" : "other", `${m > n ? 1 : n}`] }))),
  "objects that all properties but the last do not tell apart": (size) =>
    marked(root(size), (n) => ({ ...named(root(size), () => ({ const: "same" })), last: { enum: [n, n + 0.5] } })),
  "the same enums, compared again and again": (size) => ({
    anyOf: times(root(size), () => ({ oneOf: [{ $ref: "#/$defs/a" }, { $ref: "#/$defs/b" }] })),
    $defs: { a: { enum: times(size, (n) => n) }, b: { enum: times(size, (n) => -1 - n) } },
  }),
  "chains of references": (size) => ({
    oneOf: times(size, (n) => ({ $ref: `#/$defs/d${n}` })),
    $defs: { ...named(size, (n) => ({ $ref: `#/$defs/d${n - 1}` }), "d"), d0: { const: 0 } },
  }),
  "deep references": (size) => ({
    $ref: `#/$defs/d${size}`,
    $defs: { ...named(size + 1, (n) => ({ type: "array", items: { $ref: `#/$defs/d${n - 1}` } }), "d"), d0: {} },
  }),
  "definitions that double": (size) => ({
    $ref: `#/$defs/d${size}`,
    $defs: {
      ...named(size + 1, (n) => object({ a: { $ref: `#/$defs/d${n - 1}` }, b: { $ref: `#/$defs/d${n - 1}` } }), "d"),
      d0: { type: "null" },
    },
  }),
  "one definition under many spellings": (size) => ({
    anyOf: times(size, (n) => ({ $ref: `#/${"%24".repeat(n % 2)}${n % 2 ? "" : "$"}defs/${spelled("abcdefgh", n)}` })),
    $defs: { abcdefgh: { enum: times(size, (n) => n), ...named(size, () => 1, "x-") } },
  }),
  "parts shared within each other": (size) =>
    nested(size, (inner) => object({ a: inner, b: inner, c: inner })) as Schema,
  "deep objects": (size) => nested(size, (inner) => object({ a: inner })) as Schema,
  "deep alternatives": (size) => nested(size, (inner) => ({ anyOf: [inner, { type: "null" }] })) as Schema,
  "deep allOf": (size) => nested(size, (inner) => ({ allOf: [inner] })) as Schema,
  "deep values that are no schema": (size) => ({ const: nested(size, (inner) => [inner]), type: "string" }),
  "required properties of a schema for all others": (size) =>
    nested(
      8,
      (inner) => ({
        type: "object",
        required: times(Math.ceil(size ** 0.25), (n) => `r${n}`),
        additionalProperties: inner,
      }),
      {},
    ) as Schema,
  "the same name required again and again": (size) => object({ a: {} }, { required: times(size, () => "a") }),
  "many properties": (size) => object(named(size, () => ({ type: "string" }))),
  "many properties with few names in common": (size, random) =>
    object(named(size, () => ({ anyOf: [{ type: "integer" }, { const: random() }] }))),
  "long names in each other": (size) =>
    nested(
      20,
      (inner) => object({ ["n".repeat(root(size) * 30)]: inner }),
      object(named(root(size), () => ({}))),
    ) as Schema,
  "one very long name": (size) => object({ ["n".repeat(size * 4)]: object(named(root(size), () => ({}))) }),
  "long texts to choose from": (size) => ({ enum: times(20, (n) => `${n}${"é".repeat(size)}`) }),
  "a long text as a constant": (size) => ({ const: "\u0000".repeat(size * 4) }),
  "a long pattern": (size) => ({ type: "string", pattern: "ab".repeat(size) }),
  "a long pattern of different characters": (size) => ({
    type: "string",
    pattern: times(size, (n) => String.fromCharCode(0x4e00 + (n % 20_000))).join(""),
  }),
  "a long class": (size) => ({ type: "string", pattern: `[${"a-z\\d".repeat(size)}]` }),
  "a long class of different characters": (size) => ({
    type: "string",
    pattern: `[^${times(size, (n) => String.fromCharCode(0x4e00 + 2 * (n % 10_000))).join("")}]`,
  }),
  "many classes": (size) => ({ type: "string", pattern: times(size, (n) => `[^a\\u${hex(n)}]`).join("") }),
  "many escapes": (size) => ({ type: "string", pattern: "\\D\\S\\W.".repeat(size) }),
  "groups in each other": (size) => ({ type: "string", pattern: `${"(".repeat(size)}a${")".repeat(size)}` }),
  "groups that repeat": (size) => ({
    type: "string",
    pattern: `${"(a{1,512}".repeat(30)}${"){512}".repeat(30)}|`.repeat(size),
  }),
  "many patterns of different classes": (size) =>
    object(named(size, (n) => ({ type: "string", pattern: `[^\\u${hex(n)}]+[a\\u${hex(n)}b-z]` }))),
  "many patterns": (size) => object(named(size, (n) => ({ type: "string", pattern: `^[a-z]+\\d{3}${n}[^x]*$` }))),
  "a repeat without an end": (size) => ({ type: "string", pattern: `a{${"1".repeat(size)}` }),
  "ranges of numbers": (size, random) =>
    object(
      named(size, () => ({
        type: "number",
        exclusiveMinimum: -987_654_321 * random(),
        maximum: Number((123_456_789 * random()).toFixed(6)),
      })),
    ),
  "ranges of integers": (size, random) =>
    object(
      named(size, () => ({
        type: "integer",
        minimum: -randomInteger(random, Number.MAX_SAFE_INTEGER),
        maximum: randomInteger(random, Number.MAX_SAFE_INTEGER),
      })),
    ),
  "lengths of texts": (size) => object(named(size, (n) => ({ type: "string", minLength: n % 512, maxLength: 1e9 }))),
  "numbers of items": (size) =>
    object(named(size, (n) => ({ type: "array", items: { type: "null" }, minItems: n % 1000, maxItems: 1e9 }))),
  formats: (size) => object(named(size, () => ({ type: "string", format: "email" }))),
  "many types": (size) => ({ type: times(size, (n) => ["string", "null", "integer"][n % 3]) }),
  "many unknown keywords": (size) => named(size, () => 1, "k"),
  "many annotations": (size) => ({ ...named(size, () => ({}), "x-"), type: "null" }),
  "a circle of definitions": (size) => ({
    $ref: "#/$defs/d0",
    $defs: named(
      size,
      (n) =>
        object(
          { a: { $ref: `#/$defs/d${(n + 1) % size}` }, b: { $ref: `#/$defs/d${(n * 7) % size}` } },
          { required: ["a"] },
        ),
      "d",
    ),
  }),
  "a long pointer": (size) => ({ $ref: `#${"/a".repeat(size)}` }),
  "a long list of what comes first": (size) => ({ type: "array", prefixItems: times(size, () => ({ type: "null" })) }),
};

/** One of many ways to write a name in a pointer. */
function spelled(name: string, index: number): string {
  return Array.from(name, (letter, bit) =>
    (index >> bit) & 1 ? `%${hex(letter.charCodeAt(0)).slice(2)}` : letter,
  ).join("");
}

function hex(code: number): string {
  return (code % 0x1_0000).toString(16).padStart(4, "0");
}
