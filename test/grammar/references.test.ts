// Alternatives behind references: followed to what they refer to, before they are compared.

import { describe, expect, test } from "vitest";
import { Budget } from "../../packages/grammar/src/grammar-source.ts";
import { honouredSchema } from "../../packages/grammar/src/schema/honoured-schema.ts";

const refer = (name: string): object => ({ $ref: `#/$defs/${name}` });
const honoured = (schema: object): unknown => honouredSchema(schema as never, new Budget());

const definitions = {
  text: { type: "string" },
  number: { type: "number" },
  alias: refer("text"),
  "alias of an alias": refer("alias"),
  "other alias": refer("text"),
};

describe("alternatives of `oneOf`", () => {
  test.each([
    ["text", "number"],
    ["alias", "number"],
    ["alias of an alias", "number"],
    ["number", "other alias"],
  ])("%s and %s exclude each other", (first, second) => {
    // The part that both choices refer to is followed more than once.
    const choice = { oneOf: [refer(first), refer(second)] };
    const schema = { type: "object", properties: { a: choice, b: choice }, $defs: definitions };
    expect(() => honoured(schema)).not.toThrow();
  });

  test.each([
    ["text", "text"],
    ["alias", "text"],
    ["text", "alias of an alias"],
    ["alias", "other alias"],
    ["alias of an alias", "other alias"],
  ])("%s and %s are the same part, and are refused", (first, second) => {
    const schema = { oneOf: [refer(first), refer(second)], $defs: definitions };
    expect(() => honoured(schema)).toThrow("`oneOf`");
  });

  test("are refused while it is not known what a reference leads to, and by name if it leads nowhere", () => {
    const node = { type: "object", properties: { next: { oneOf: [refer("node"), { type: "null" }] } } };
    expect(() => honoured({ ...refer("node"), $defs: { node } })).toThrow("`oneOf`");
    const circle = { a: refer("b"), b: refer("a") };
    expect(() => honoured({ ...refer("a"), $defs: circle })).toThrow("refers to itself");
    expect(() => honoured({ oneOf: [refer("none"), refer("text")], $defs: definitions })).toThrow("there is nothing");
  });
});
