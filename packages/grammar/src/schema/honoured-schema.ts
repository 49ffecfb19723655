// Schemas come from outside, and the library ignores keywords that it does not know. So each keyword is either
// honoured or refused by name.

import { describeValue, isRecord } from "@readme-moe/core";
import type { Budget } from "../grammar-source.ts";
import { jsonCharacter } from "./ebnf/code-points.ts";
import { PatternWriter } from "./ebnf/pattern-parser.ts";
import {
  ANNOTATIONS,
  below,
  onlyKeywords,
  refused,
  type SchemaObject,
  type SchemaPath,
  TYPE_KEYWORDS,
  typesOf,
} from "./keywords.ts";
import { CONTAINERS, Exclusion, type Place, SCALARS, type Visit } from "./types.ts";

/** A JSON Schema, as a plain object; `true` allows everything. */
export type JsonSchema = boolean | Readonly<Record<string, unknown>>;

const MAX_DEPTH = 32;
const MAX_PARTS = 2_000;
/** Steps of a part, without its lists. */
const PART_STEPS = 16;

/**
 * Rewrites a schema in the few keywords that `schemaGrammar` writes. The result allows no value that `schema` does not.
 *
 * @throws {TypeError} naming the keyword that is wrong or not supported
 * @throws {RangeError} when it is too deep, too large, or takes too many steps
 */
export function honouredSchema(schema: JsonSchema, budget: Budget): SchemaObject {
  let numParts = 0;
  const definitions = new Definitions(schema);
  const patterns = new PatternWriter(jsonCharacter, budget);
  const narrowed = new WeakSet<SchemaObject>();
  const exclusion = new Exclusion(
    { resolve: (part) => definitions.resolve(part), isNarrowed: (part) => narrowed.has(part) },
    budget,
  );

  const visit: Visit = (part, place) => {
    if (place.depth > MAX_DEPTH) throw new RangeError(`Expected a schema at most ${MAX_DEPTH} levels deep`);
    if (++numParts > MAX_PARTS) throw new RangeError(`Expected a schema of at most ${MAX_PARTS} parts`);
    budget.spend(PART_STEPS);
    if (part === true) return {};
    if (!isRecord(part)) throw refused(place.path, `is ${describeValue(part)}; expected an object, or \`true\``);
    budget.spend(sizeOf(part));
    const keywords = Object.keys(part).filter((name) => !ANNOTATIONS.has(name) && !name.startsWith("x-"));
    if (keywords.length === 0) return {};
    if ("$ref" in part) {
      onlyKeywords(keywords, ["$ref"], place.path);
      return definitions.refer(part["$ref"], place, visit);
    }
    for (const name of ["anyOf", "oneOf", "allOf"] as const) {
      if (!(name in part)) continue;
      onlyKeywords(keywords, [name], place.path);
      const parts = combined(
        name,
        part[name],
        (one, index) => visit(one, { ...place, path: below(place.path, name, index), depth: place.depth + 1 }),
        place.path,
      );
      if (name === "oneOf" && !exclusion.isDisjoint(parts)) {
        const message = "has `oneOf` whose schemas may hold at once, which is not supported; use `anyOf`";
        throw refused(place.path, message);
      }
      return alternatives(parts);
    }
    if ("enum" in part || "const" in part) return listed(part, keywords, place.path);
    const honoured = alternatives(
      typesOf(part, keywords, place.path).map((type) => {
        const own = Object.fromEntries(
          keywords.filter((name) => TYPE_KEYWORDS[type].has(name)).map((n) => [n, part[n]]),
        );
        const container = CONTAINERS[type];
        return container ? container(own, place, visit) : (SCALARS[type]?.(own, place.path, patterns) ?? { type });
      }),
    );
    if (!("type" in part)) narrowed.add(honoured);
    return honoured;
  };

  const honoured = visit(schema, { path: "#", depth: 0, entered: new Set() });
  const whole = { ...honoured, ...definitions.toSchema() };
  checkFinite(honoured, definitions.all, budget);
  return whole;
}

function combined(
  name: "anyOf" | "oneOf" | "allOf",
  value: unknown,
  visit: (part: unknown, index: number) => SchemaObject,
  path: SchemaPath,
): readonly SchemaObject[] {
  if (!Array.isArray(value) || value.length === 0) {
    throw refused(path, `has \`${name}\` ${describeValue(value)}; expected a list of schemas`);
  }
  const parts = value.map(visit);
  if (name !== "allOf" || parts.length === 1) return parts;
  throw refused(path, "has `allOf` of several schemas, which is not supported");
}

function alternatives(parts: readonly SchemaObject[]): SchemaObject {
  const [first] = parts;
  return first && parts.length === 1 ? first : { anyOf: parts };
}

function listed(part: SchemaObject, keywords: readonly string[], path: SchemaPath): SchemaObject {
  onlyKeywords(keywords, ["enum", "const", "type"], path);
  const list = "enum" in part ? part["enum"] : [part["const"]];
  if (!Array.isArray(list)) throw refused(path, `has \`enum\` ${describeValue(list)}; expected a list`);
  if ("enum" in part && "const" in part) throw refused(path, "has both `enum` and `const`, which is not supported");
  const types = "type" in part ? new Set(typesOf(part, ["type"], path)) : undefined;
  const isAllowed = (value: unknown): boolean =>
    !types || [...types].some((type) => (type === "integer" ? Number.isInteger(value) : type === typeName(value)));
  const values = list.filter(isAllowed);
  if (values.length === 0) throw refused(path, "allows no value");
  for (const value of values) {
    if (value !== null && typeof value === "object") {
      throw refused(path, "lists an object or an array, which is not supported");
    }
  }
  return { enum: values };
}

/** Counts the keys and the listed values of a part. */
function sizeOf(part: SchemaObject): number {
  const lists = ["enum", "required", "type"].map((name) => part[name]);
  return lists.reduce<number>((sum, list) => sum + (Array.isArray(list) ? list.length : 0), Object.keys(part).length);
}

function typeName(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
}

/** @throws {TypeError} when no answer can end, such as for an object that has to hold one like itself */
function checkFinite(schema: SchemaObject, definitions: ReadonlyMap<string, SchemaObject>, budget: Budget): void {
  const finite = new Set<string>();
  const ends = (part: unknown): boolean => {
    budget.spend(1);
    if (!isRecord(part)) return true;
    const { $ref, anyOf, properties, required, items, minItems, prefixItems } = part;
    if (typeof $ref === "string") return finite.has($ref.slice("#/$defs/".length));
    if (Array.isArray(anyOf)) return anyOf.some(ends);
    if (Array.isArray(prefixItems)) return prefixItems.every(ends);
    if (typeof minItems === "number" && minItems > 0) return ends(items);
    return !(isRecord(properties) && Array.isArray(required)) || required.every((name) => ends(properties[name]));
  };
  // Each round can find another definition to be finite.
  for (let size = -1; size < finite.size;) {
    size = finite.size;
    for (const [name, part] of definitions) if (ends(part)) finite.add(name);
  }
  if (!ends(schema)) throw new TypeError("The schema allows no answer that comes to an end");
}

const PREFIX = "#/$defs/";

/** Parts of a schema that `$ref` names. Each is visited once and gets a new name. */
class Definitions {
  readonly #root: unknown;
  readonly #names = new Map<string, string>(); // by pointer
  readonly #honoured = new Map<string, SchemaObject>(); // by name
  readonly #resolved = new Map<string, SchemaObject>(); // by name; no references

  constructor(root: unknown) {
    this.#root = root;
  }

  get all(): ReadonlyMap<string, SchemaObject> {
    return this.#honoured;
  }

  /**
   * Refers to a part. @throws {TypeError} when it does not exist, or refers to itself without an object or array
   * between
   */
  refer(pointer: unknown, place: Place, visit: Visit): SchemaObject {
    if (typeof pointer !== "string" || !/^#(\/|$)/.test(pointer)) {
      throw refused(place.path, `has \`$ref\` ${describeValue(pointer)}; expected a place in the same schema`);
    }
    if (place.entered.has(pointer)) throw refused(place.path, `has \`$ref\` that refers to itself`);
    const known = this.#names.get(pointer);
    const name = known ?? `d${this.#names.size}`;
    if (known === undefined) {
      this.#names.set(pointer, name);
      const target = this.#find(pointer, place);
      const entered = new Set([...place.entered, pointer]);
      this.#honoured.set(name, visit(target, { path: pointer, depth: place.depth + 1, entered }));
    }
    return { $ref: `${PREFIX}${name}` };
  }

  /** Follows a part that only refers to another; `undefined` while that one is being read. */
  resolve(part: SchemaObject): SchemaObject | undefined {
    const names: string[] = [];
    let found: SchemaObject | undefined = part;
    for (let name = nameOf(found); found && name !== undefined; name = found && nameOf(found)) {
      names.push(name);
      found = this.#resolved.get(name) ?? this.#honoured.get(name);
    }
    // Chains of references are followed once.
    if (found) for (const name of names) this.#resolved.set(name, found);
    return found;
  }

  toSchema(): SchemaObject {
    return this.#honoured.size === 0 ? {} : { $defs: Object.fromEntries(this.#honoured) };
  }

  #find(pointer: string, { path }: Place): unknown {
    let found: unknown = this.#root;
    for (const raw of pointer.split("/").slice(1)) {
      const key = decodeKey(raw);
      const inner = isRecord(found) || Array.isArray(found) ? Object.getOwnPropertyDescriptor(found, key) : undefined;
      if (inner === undefined) throw refused(path, `has \`$ref\` ${describeValue(pointer)}, where there is nothing`);
      found = inner.value;
    }
    return found;
  }
}

/** Reads the name that a part refers to. */
function nameOf({ $ref }: SchemaObject): string | undefined {
  return typeof $ref === "string" ? $ref.slice(PREFIX.length) : undefined;
}

function decodeKey(raw: string): string {
  let key = raw;
  try {
    key = decodeURIComponent(raw);
  } catch {
    // A percent sign that stands for itself.
  }
  return key.replaceAll("~1", "/").replaceAll("~0", "~");
}

const MAX_LEVELS = 128;
const MAX_VALUES = 50_000;
const MAX_CHARACTERS = 262_144;
/** Keywords whose texts are for people and do not count. */
const PROSE: ReadonlySet<string> = new Set(["title", "description", "$comment"]);

/**
 * Measures schemas before anything else is done with them. It stops as soon as a limit is passed, so that it costs
 * no more than the largest allowed schema.
 *
 * @param schemas - all schemas of one request, which count together
 * @throws {RangeError} naming the limit: 128 levels of objects and arrays, 50,000 values, or 262,144 characters of
 *   names and texts without titles and descriptions
 */
export function checkSchemaSizes(schemas: readonly JsonSchema[]): void {
  let [numValues, numCharacters] = [0, 0];
  const count = (values: number): void => {
    numValues += values;
    if (numValues <= MAX_VALUES) return;
    throw new RangeError(`Expected schemas of at most ${MAX_VALUES} values; enumerate less, or leave parts out`);
  };
  const read = (text: string): void => {
    numCharacters += text.length;
    if (numCharacters <= MAX_CHARACTERS) return;
    throw new RangeError(`Expected schemas of at most ${MAX_CHARACTERS} characters in their names and texts`);
  };
  // Level by level, so that no depth can overflow the stack.
  let level: readonly unknown[] = schemas;
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_LEVELS) throw new RangeError(`Expected schemas nested at most ${MAX_LEVELS} levels deep`);
    const next: unknown[] = [];
    const visit = (value: unknown, name?: string): void => {
      if (typeof value === "object" && value !== null) next.push(value);
      else if (typeof value === "string" && !(name !== undefined && PROSE.has(name))) read(value);
    };
    for (const value of level) {
      if (Array.isArray(value)) {
        count(value.length);
        for (const item of value) visit(item);
      } else if (isRecord(value)) {
        const names = Object.keys(value);
        count(names.length);
        for (const name of names) {
          read(name);
          visit(value[name], name);
        }
      } else count(1);
    }
    level = next;
  }
}
