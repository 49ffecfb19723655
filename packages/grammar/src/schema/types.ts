import { describeValue, isRecord } from "@readme-moe/core";
import { PatternError, type PatternWriter } from "./ebnf/pattern-parser.ts";
import { FORMATS } from "./ebnf/schema-grammar.ts";
import { below, brief, refused, type SchemaObject, type SchemaPath, type TypeName } from "./keywords.ts";

/** Place of a part of a schema. */
export interface Place {
  readonly path: SchemaPath;
  readonly depth: number;
  /** Definitions entered since the last object or array. */
  readonly entered: ReadonlySet<string>;
}

export type Visit = (part: unknown, place: Place) => SchemaObject;

type Container = (part: SchemaObject, place: Place, visit: Visit) => SchemaObject;

type Scalar = (part: SchemaObject, path: SchemaPath, patterns: PatternWriter) => SchemaObject;

export const CONTAINERS: Partial<Readonly<Record<TypeName, Container>>> = {
  object: objectSchema,
  array: arraySchema,
};

export const SCALARS: Partial<Readonly<Record<TypeName, Scalar>>> = {
  string: stringSchema,
  number: numberSchema,
  integer: integerSchema,
};

// A part that is repeated a thousand times takes seconds to compile.
const MAX_COUNT = 1_000;
const MAX_LENGTH = 512;

function objectSchema(part: SchemaObject, place: Place, visit: Visit): SchemaObject {
  const { properties = {}, required = [], additionalProperties: additional = true } = part;
  if (!isRecord(properties)) throw refused(place.path, `has \`properties\` ${describeValue(properties)}`);
  if (!Array.isArray(required) || !required.every((name) => typeof name === "string")) {
    throw refused(place.path, `has \`required\` ${describeValue(required)}; expected a list of names`);
  }
  const inner = (value: unknown, ...keys: string[]): SchemaObject =>
    visit(value, { path: below(place.path, ...keys), depth: place.depth + 1, entered: new Set() });
  const own = new Map(Object.entries(properties).map(([name, value]) => [name, inner(value, "properties", name)]));
  for (const name of required) {
    if (own.has(name)) continue;
    if (additional === false)
      throw refused(place.path, `requires ${JSON.stringify(brief(name))}, but does not allow it`);
    own.set(name, additional === true ? {} : inner(additional, "additionalProperties"));
  }
  if (own.size === 0) {
    const rest = typeof additional === "boolean" ? additional : inner(additional, "additionalProperties");
    return { type: "object", additionalProperties: rest };
  }
  if (typeof additional !== "boolean") {
    throw refused(place.path, "has `additionalProperties` with a schema beside `properties`, which is not supported");
  }
  return {
    type: "object",
    // Entries are defined, not assigned, so that a property can be called `__proto__`.
    properties: Object.fromEntries(own),
    required: [...new Set(required)],
    additionalProperties: false,
  };
}

function arraySchema(part: SchemaObject, place: Place, visit: Visit): SchemaObject {
  const { items = true, prefixItems, uniqueItems = false } = part;
  if (uniqueItems !== false) throw refused(place.path, "has `uniqueItems`, which is not supported");
  const minItems = count(part, "minItems", place.path, MAX_COUNT);
  const maxItems = count(part, "maxItems", place.path, MAX_COUNT);
  if (minItems !== undefined && maxItems !== undefined && minItems > maxItems) {
    throw refused(place.path, "has `minItems` above `maxItems`");
  }
  const inner = (value: unknown, ...keys: string[]): SchemaObject =>
    visit(value, { path: below(place.path, ...keys), depth: place.depth + 1, entered: new Set() });
  if (prefixItems !== undefined) {
    if (!Array.isArray(prefixItems)) throw refused(place.path, `has \`prefixItems\` ${describeValue(prefixItems)}`);
    if ((minItems ?? 0) > prefixItems.length || (maxItems ?? Infinity) < prefixItems.length) {
      throw refused(place.path, "has `prefixItems` and another number of items, which is not supported");
    }
    // The answer has all of the prefix and no more, which is always valid.
    const prefix = prefixItems.map((value, index) => inner(value, "prefixItems", String(index)));
    return { type: "array", prefixItems: prefix, items: false, minItems: prefix.length };
  }
  if (items === false && (minItems ?? 0) > 0) throw refused(place.path, "allows no array");
  if (items === false) return { type: "array", items: {}, maxItems: 0 };
  return {
    type: "array",
    items: inner(items, "items"),
    ...(minItems === undefined ? {} : { minItems }),
    ...(maxItems === undefined ? {} : { maxItems }),
  };
}

function stringSchema(part: SchemaObject, path: SchemaPath, patterns: PatternWriter): SchemaObject {
  const minLength = count(part, "minLength", path, MAX_LENGTH);
  const maxLength = count(part, "maxLength", path, MAX_LENGTH);
  const { pattern, format } = part;
  const hasLength = minLength !== undefined || maxLength !== undefined;
  if ([pattern !== undefined, format !== undefined, hasLength].filter(Boolean).length > 1) {
    throw refused(path, "has more than one of `pattern`, `format`, and a length, which is not supported together");
  }
  if (pattern !== undefined) return { type: "string", pattern: honouredPattern(pattern, path, patterns) };
  if (format !== undefined) {
    if (typeof format === "string" && Object.hasOwn(FORMATS, format)) return { type: "string", format };
    const known = Object.keys(FORMATS).join(", ");
    throw refused(path, `has \`format\` ${describeValue(format)}, which is not supported; ${known} are`);
  }
  if ((minLength ?? 0) > (maxLength ?? Infinity)) throw refused(path, "has `minLength` above `maxLength`");
  return {
    type: "string",
    ...(minLength === undefined ? {} : { minLength }),
    ...(maxLength === undefined ? {} : { maxLength }),
  };
}

/** Writes the grammar of the strings that a pattern matches as a whole. */
function honouredPattern(pattern: unknown, path: SchemaPath, patterns: PatternWriter): string {
  if (typeof pattern !== "string") throw refused(path, `has \`pattern\` ${describeValue(pattern)}; expected a text`);
  try {
    return patterns.write(pattern);
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw refused(path, `has \`pattern\` with ${error.message}, which is not supported`);
  }
}

function integerSchema(part: SchemaObject, path: SchemaPath): SchemaObject {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = bounds(part, path);
  const least = Math.max(
    minimum === undefined ? -Infinity : Math.ceil(minimum),
    exclusiveMinimum === undefined ? -Infinity : Math.floor(exclusiveMinimum) + 1,
  );
  const most = Math.min(
    maximum === undefined ? Infinity : Math.floor(maximum),
    exclusiveMaximum === undefined ? Infinity : Math.ceil(exclusiveMaximum) - 1,
  );
  if (least > most) throw refused(path, "allows no integer");
  for (const bound of [least, most]) {
    if (Number.isFinite(bound) && !Number.isSafeInteger(bound)) throw refused(path, `has the bound ${bound}`);
  }
  return {
    type: "integer",
    ...(Number.isFinite(least) ? { minimum: least } : {}),
    ...(Number.isFinite(most) ? { maximum: most } : {}),
  };
}

/** Accepts bounds that can be written without an exponent. */
function numberSchema(part: SchemaObject, path: SchemaPath): SchemaObject {
  const honoured = bounds(part, path);
  for (const [name, value] of Object.entries(honoured)) {
    if (/^-?\d{1,15}(\.\d{1,15})?$/.test(String(value))) continue;
    throw refused(path, `has \`${name}\` ${value}; at most 15 digits before and after the point are supported`);
  }
  return { type: "number", ...honoured };
}

type Bounds = Partial<Record<"minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", number>>;

function bounds(part: SchemaObject, path: SchemaPath): Bounds {
  if ("multipleOf" in part) throw refused(path, "has `multipleOf`, which is not supported");
  for (const [name, value] of Object.entries(part)) {
    if (typeof value === "number" && Number.isFinite(value)) continue;
    throw refused(path, `has \`${name}\` ${describeValue(value)}; expected a number`);
  }
  const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum, exclusiveMaximum } = part as Bounds;
  const isEmpty =
    minimum > maximum ||
    (exclusiveMinimum ?? -Infinity) >= Math.min(maximum, exclusiveMaximum ?? Infinity) ||
    minimum >= (exclusiveMaximum ?? Infinity);
  if (isEmpty) throw refused(path, "allows no number");
  return part;
}

function count(part: SchemaObject, name: string, path: SchemaPath, most: number): number | undefined {
  const value = part[name];
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0) {
    throw refused(path, `has \`${name}\` ${describeValue(value)}; expected a count`);
  }
  if (value <= most) return value;
  // An answer below a smaller upper bound is valid as well.
  if (name.startsWith("max")) return most;
  throw refused(path, `has \`${name}\` ${value}; at most ${most} are supported`);
}
