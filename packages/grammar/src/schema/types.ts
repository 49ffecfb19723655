import { describeValue, isRecord, PatternError } from "@readme-moe/core";
import type { Budget } from "../grammar-source.ts";
import type { PatternWriter } from "./ebnf/pattern-parser.ts";
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

/** Knowledge about the visited parts of a schema. */
interface Known {
  /** Follows a part that only refers to another; `undefined` where that one is not known yet. */
  resolve(part: SchemaObject): SchemaObject | undefined;
  /** Whether the original part allowed more types than the visited one. */
  isNarrowed(part: SchemaObject): boolean;
}

type Values = ReadonlySet<unknown>;

/** Facts that can prove that no value is valid under two parts. */
interface Facts {
  /** Types of its values; `undefined` where they are not known. */
  readonly kinds: ReadonlySet<string> | undefined;
  /** All its values, where they are listed. */
  readonly values: Values | undefined;
  /** Required properties whose values are listed. */
  readonly marks: ReadonlyMap<string, Values> | undefined;
}

/** Finds out whether alternatives exclude each other, within a budget of steps. */
export class Exclusion {
  readonly #known: Known;
  readonly #budget: Budget;
  readonly #facts = new Map<SchemaObject, Facts>();

  constructor(known: Known, budget: Budget) {
    this.#known = known;
    this.#budget = budget;
  }

  /**
   * Whether no value is valid under two of these parts; `false` also where that is not known.
   *
   * @throws {RangeError} when it takes too many steps
   */
  isDisjoint(parts: readonly SchemaObject[]): boolean {
    if (parts.length < 2) return true;
    const different = new Set(parts.map((part) => this.#known.resolve(part)));
    if (different.size < parts.length) return false;
    const all: Facts[] = [];
    for (const part of different) {
      if (!part) return false;
      all.push(this.#factsOf(part));
    }
    const listed = all.flatMap(({ values }) => values ?? []);
    const marked = all.flatMap(({ marks }) => marks ?? []);
    return areKindsApart(all) && this.#areApart(listed) && this.#areMarkedApart(marked);
  }

  /** Whether no value is in two of the sets. */
  #areApart(sets: readonly Values[]): boolean {
    const seen = new Set<unknown>();
    for (const values of sets) {
      this.#budget.spend(values.size);
      for (const value of values) if (seen.has(value)) return false;
      for (const value of values) seen.add(value);
    }
    return true;
  }

  /** Whether all pairs have a property with different values: one property for all pairs, or one for each. */
  #areMarkedApart(all: readonly ReadonlyMap<string, Values>[]): boolean {
    const [first, ...rest] = all;
    if (!first) return true;
    for (const [name, values] of first) {
      this.#budget.spend(all.length);
      const others = rest.flatMap((marks) => marks.get(name) ?? []);
      if (others.length === rest.length && this.#areApart([values, ...others])) return true;
    }
    return all.every((one, index) => all.slice(index + 1).every((other) => this.#isPairMarkedApart(one, other)));
  }

  #isPairMarkedApart(one: ReadonlyMap<string, Values>, other: ReadonlyMap<string, Values>): boolean {
    const [fewer, more] = one.size <= other.size ? [one, other] : [other, one];
    this.#budget.spend(1 + fewer.size);
    for (const [name, values] of fewer) {
      const otherValues = more.get(name);
      if (!otherValues) continue;
      const [few, many] = values.size <= otherValues.size ? [values, otherValues] : [otherValues, values];
      this.#budget.spend(few.size);
      if (![...few].some((value) => many.has(value))) return true;
    }
    return false;
  }

  #factsOf(part: SchemaObject): Facts {
    const known = this.#facts.get(part);
    if (known) return known;
    const facts = { kinds: this.#kindsOf(part), values: this.#valuesOf(part), marks: this.#marksOf(part) };
    this.#facts.set(part, facts);
    return facts;
  }

  #kindsOf(part: SchemaObject): ReadonlySet<string> | undefined {
    this.#budget.spend(1);
    if (this.#known.isNarrowed(part)) return undefined;
    const { type, anyOf } = part;
    if (typeof type === "string") return new Set([type === "integer" ? "number" : type]);
    const values = this.#valuesOf(part);
    if (values) return new Set([...values].map((value) => (value === null ? "null" : typeof value)));
    if (!Array.isArray(anyOf)) return undefined;
    const kinds = new Set<string>();
    for (const one of anyOf as readonly SchemaObject[]) {
      const inner = this.#kindsOf(one);
      if (!inner) return undefined;
      for (const kind of inner) kinds.add(kind);
    }
    return kinds;
  }

  #valuesOf(part: unknown): Values | undefined {
    if (!isRecord(part) || !Array.isArray(part["enum"])) return undefined;
    this.#budget.spend(part["enum"].length);
    return new Set(part["enum"]);
  }

  #marksOf({ properties, required }: SchemaObject): ReadonlyMap<string, Values> | undefined {
    if (!isRecord(properties) || !Array.isArray(required)) return undefined;
    const marks = new Map<string, Values>();
    for (const name of required.map(String)) {
      this.#budget.spend(1);
      const values = this.#valuesOf(properties[name]);
      if (values) marks.set(name, values);
    }
    return marks;
  }
}

/**
 * Whether parts of the same type are all lists of values or all objects with listed properties, which can be compared.
 */
function areKindsApart(all: readonly Facts[]): boolean {
  const ways = new Map<string, Set<string>>();
  let numHard = 0;
  const numMarked = all.filter(({ marks }) => marks).length;
  for (const [index, { kinds, values, marks }] of all.entries()) {
    if (!kinds) numHard++;
    // A part without anything to compare gets a way of its own.
    const way = values ? "values" : marks ? "marks" : `part ${index}`;
    for (const kind of kinds ?? []) ways.set(kind, (ways.get(kind) ?? new Set<string>()).add(way));
  }
  if (numHard > 0) return numMarked === all.length;
  return [...ways.values()].every((of) => of.size === 1);
}
