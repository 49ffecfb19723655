import { describeValue, isRecord } from "@readme-moe/core";

/** Keywords that do not restrict answers. */
export const ANNOTATIONS: ReadonlySet<string> = new Set([
  "$schema",
  "$id",
  "$comment",
  "$defs",
  "definitions",
  "title",
  "description",
  "default",
  "examples",
  "deprecated",
  "readOnly",
  "writeOnly",
]);

const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"] as const;
export type TypeName = (typeof TYPES)[number];

const BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"] as const;

/** Keywords that restrict values of a type. */
export const TYPE_KEYWORDS: Readonly<Record<TypeName, ReadonlySet<string>>> = {
  object: new Set(["properties", "required", "additionalProperties"]),
  array: new Set(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
  string: new Set(["minLength", "maxLength", "pattern", "format"]),
  number: new Set(BOUNDS),
  integer: new Set(BOUNDS),
  boolean: new Set(),
  null: new Set(),
};

/** @throws {TypeError} naming a keyword that is not supported beside the others */
export function onlyKeywords(keywords: readonly string[], allowed: readonly string[], path: SchemaPath): void {
  const other = keywords.find((name) => !allowed.includes(name));
  if (other === undefined) return;
  throw refused(path, `has \`${brief(other)}\` beside \`${allowed[0]}\`, which is not supported`);
}

/**
 * Lists the types of a schema's values. Without `type`, these are the types that the keywords restrict, although
 * values of other types would be valid too.
 *
 * @throws {TypeError} naming an unknown type or keyword
 */
export function typesOf(part: SchemaObject, keywords: readonly string[], path: SchemaPath): readonly TypeName[] {
  const given = part["type"];
  const types = given === undefined ? impliedTypes(keywords) : namedTypes(given, path);
  for (const name of keywords) {
    if (name === "type" || types.some((type) => TYPE_KEYWORDS[type].has(name))) continue;
    const isKnown = TYPES.some((type) => TYPE_KEYWORDS[type].has(name));
    throw refused(
      path,
      `has \`${brief(name)}\`, which is not supported${isKnown ? ` for type ${types.join(", ")}` : ""}`,
    );
  }
  return types;
}

function isType(name: unknown): name is TypeName {
  return TYPES.some((type) => type === name);
}

function namedTypes(given: unknown, path: SchemaPath): readonly TypeName[] {
  const names: readonly unknown[] = Array.isArray(given) ? given : [given];
  const known = new Set(names.filter(isType));
  if (names.length === 0 || !names.every(isType)) {
    throw refused(
      path,
      `has \`type\` ${describeValue(names.find((name) => !isType(name)))}; expected one of ${TYPES.join(", ")}`,
    );
  }
  // Every integer is a number.
  if (known.has("number")) known.delete("integer");
  return [...known];
}

function impliedTypes(keywords: readonly string[]): readonly TypeName[] {
  return TYPES.filter((type) => type !== "integer" && keywords.some((name) => TYPE_KEYWORDS[type].has(name)));
}

/** Place in a schema as a JSON pointer, `#` for the whole. The pointer is composed only for a message. */
export type SchemaPath = string | { readonly parent: SchemaPath; readonly keys: readonly (string | number)[] };

const MAX_KEY_CHARACTERS = 80;

export function below(parent: SchemaPath, ...keys: readonly (string | number)[]): SchemaPath {
  return { parent, keys };
}

/** Makes the error for a part of a schema. */
export function refused(path: SchemaPath, what: string): TypeError {
  return new TypeError(`The schema at \`${written(path)}\` ${what}`);
}

/** Cuts a long name for a message. */
export function brief(name: string): string {
  return name.length > MAX_KEY_CHARACTERS ? `${name.slice(0, MAX_KEY_CHARACTERS)}…` : name;
}

function written(path: SchemaPath): string {
  if (typeof path === "string") return brief(path);
  const keys = path.keys.map((key) => brief(String(key)).replaceAll("~", "~0").replaceAll("/", "~1"));
  return [written(path.parent), ...keys].join("/");
}

export type SchemaObject = Readonly<Record<string, unknown>>;

// Schemas without bounds on the lengths of strings, whose grammars find masks faster.

/** A character that is free: schemas with it keep their bounds. */
export const UNUSED_CHARACTER = "\uE5F7";

/** A schema without bounds, and what its masks depend on. */
export interface WideSchema {
  readonly schema: SchemaObject;
  /** Whether any string had bounds. */
  readonly hadBounds: boolean;
  /** Whether it has strings with patterns. */
  readonly hasPatterns: boolean;
}

/**
 * Removes the bounds on lengths from the strings of a schema.
 *
 * @param schema - the result of `honouredSchema`
 * @returns `undefined` where two kinds of strings may be written at once: the room of one says nothing about the other
 */
export function withoutLengths(schema: SchemaObject): WideSchema | undefined {
  const facts = new Set<"bounds" | "choices" | "listed" | "patterns" | "unused">();
  const visit = (part: unknown): unknown => {
    if (typeof part === "string" && part.includes(UNUSED_CHARACTER)) facts.add("unused");
    if (Array.isArray(part)) return part.map(visit);
    if (!isRecord(part)) return part;
    const { anyOf, enum: values, pattern, format } = part;
    if (Array.isArray(anyOf) && anyOf.filter(mayBeText).length > 1) facts.add("choices");
    if (Array.isArray(values) && values.some((value) => typeof value === "string")) facts.add("listed");
    if (pattern !== undefined) facts.add("patterns");
    if (format !== undefined) facts.add("listed");
    const isBound = part["type"] === "string" && pattern === undefined && format === undefined;
    const kept = Object.entries(part).flatMap(([name, value]): [string, unknown][] => {
      if (name.includes(UNUSED_CHARACTER)) facts.add("unused");
      if (!isBound || (name !== "minLength" && name !== "maxLength")) return [[name, visit(value)]];
      facts.add("bounds");
      return [];
    });
    return Object.fromEntries(kept);
  };
  const wide = visit(schema) as SchemaObject;
  const mayMix = facts.has("choices") && (facts.has("listed") || facts.has("patterns"));
  if (facts.has("unused") || mayMix) return undefined;
  return { schema: wide, hadBounds: facts.has("bounds"), hasPatterns: facts.has("patterns") };
}

/** Whether an alternative's values may have texts in them. */
function mayBeText(part: unknown): boolean {
  if (!isRecord(part)) return true;
  if (Array.isArray(part["enum"])) return part["enum"].some((value) => typeof value === "string");
  return !["integer", "number", "boolean", "null"].includes(String(part["type"]));
}
