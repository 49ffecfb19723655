// Small valid JSON schemas, response formats and tools.

import type { Chance } from "./chance.ts";

type Fields = Record<string, unknown>;

/** @param depth - allowed further levels */
export function schema(chance: Chance, depth = 2): Fields {
  const leaves: readonly (() => Fields)[] = [
    () => ({ type: "boolean" }),
    () => ({ type: "null" }),
    () => ({ type: "integer", minimum: chance.between(-5, 5), maximum: chance.between(6, 500) }),
    () => ({ type: "number" }),
    () => ({ type: "string", maxLength: chance.between(1, 20) }),
    () => ({ type: "string", pattern: chance.pick(["^[a-z]+$", "\\d{3}-\\d{4}", "(a|b)*c", "[^x]{2,5}", "^é?$"]) }),
    () => ({ type: "string", format: chance.pick(["date", "uuid", "ipv4", "email", "date-time"]) }),
    () => ({ enum: chance.list(1, 4, (index) => chance.pick<unknown>(["a", index, null, "é", true])).concat("z") }),
    () => ({ const: chance.pick<unknown>(["x", 1, null, true, -0.5]) }),
    () => ({ title: "anything", type: ["string", "null"] }),
  ];
  if (depth === 0 || chance.happens(0.4)) return chance.pick(leaves)();
  const inner = (): Fields => schema(chance, depth - 1);
  return chance.pick<() => Fields>([
    () => object(chance, inner),
    () => ({ type: "array", items: inner(), maxItems: chance.between(1, 4) }),
    () => ({ anyOf: [inner(), { type: "null" }] }),
  ])();
}

export function object(chance: Chance, inner: () => Fields): Fields {
  const names = chance.list(1, 3, (index) => chance.pick(["a", "on", "é", "a b"]) + index);
  const required = names.filter(() => chance.happens(0.6));
  const properties = Object.fromEntries(names.map((name) => [name, inner()]));
  return { type: "object", properties, required, ...(chance.happens(0.3) ? { additionalProperties: false } : {}) };
}

/** Makes a whole schema; only its root can have definitions, which are found by their pointer. */
function rootSchema(chance: Chance): Fields {
  return chance.pick<() => Fields>([
    () => schema(chance),
    () => object(chance, () => schema(chance, 1)),
    () => ({ $ref: "#/$defs/one", $defs: { one: schema(chance, 1) } }),
  ])();
}

export function responseFormat(chance: Chance): Fields {
  return chance.weighted<() => Fields>([
    [1, () => ({ type: "text" })],
    [2, () => ({ type: "json_object" })],
    [
      4,
      () => ({
        type: "json_schema",
        json_schema: {
          name: "answer",
          schema: rootSchema(chance),
          ...(chance.happens(0.3) ? { strict: chance.happens(0.5), description: "What is wanted" } : {}),
        },
      }),
    ],
  ])();
}

const NAMES = ["light", "a-b", "x_1"];

export function tools(chance: Chance): Fields {
  const names = NAMES.slice(0, chance.between(1, NAMES.length));
  const list = names.map((name) => ({
    type: "function",
    function: {
      name,
      ...(chance.happens(0.5) ? { description: `Does ${name}` } : {}),
      ...(chance.happens(0.8) ? { parameters: object(chance, () => schema(chance, 1)) } : {}),
    },
  }));
  const choice = chance.pick<unknown>([
    undefined,
    "auto",
    "none",
    "required",
    { type: "function", function: { name: names[0] } },
  ]);
  return {
    tools: list,
    ...(choice === undefined ? {} : { tool_choice: choice }),
    ...(chance.happens(0.2) ? { parallel_tool_calls: chance.happens(0.5) } : {}),
  };
}
