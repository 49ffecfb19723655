import { describeValue } from "@readme-moe/core";
import { brief, refused, type SchemaObject, type SchemaPath } from "./schema-error.ts";

/** Say nothing about which answers are valid. */
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

/** What can be said about values of a type. */
export const TYPE_KEYWORDS: Readonly<Record<TypeName, ReadonlySet<string>>> = {
  object: new Set(["properties", "required", "additionalProperties"]),
  array: new Set(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
  string: new Set(["minLength", "maxLength", "pattern", "format"]),
  number: new Set(BOUNDS),
  integer: new Set(BOUNDS),
  boolean: new Set(),
  null: new Set(),
};

/** @throws {TypeError} naming a keyword that does not go with the others here */
export function onlyKeywords(keywords: readonly string[], allowed: readonly string[], path: SchemaPath): void {
  const other = keywords.find((name) => !allowed.includes(name));
  if (other === undefined) return;
  throw refused(path, `has \`${brief(other)}\` beside \`${allowed[0]}\`, which is not supported`);
}

/**
 * The types of a schema's values. Where `type` does not say, the keywords do: of all values that would be valid, those
 * are meant that they speak of.
 * @throws {TypeError} naming what is unknown
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

function namedTypes(given: unknown, path: SchemaPath): readonly TypeName[] {
  const names: readonly unknown[] = Array.isArray(given) ? given : [given];
  const types = names.map((name) => TYPES.find((type) => type === name));
  const unknown = names.find((_, index) => types[index] === undefined);
  if (types.length === 0 || types.includes(undefined)) {
    throw refused(path, `has \`type\` ${describeValue(unknown)}; expected one of ${TYPES.join(", ")}`);
  }
  const known = new Set(types as TypeName[]);
  // Every integer is a number.
  if (known.has("number")) known.delete("integer");
  return [...known];
}

function impliedTypes(keywords: readonly string[]): readonly TypeName[] {
  return TYPES.filter((type) => type !== "integer" && keywords.some((name) => TYPE_KEYWORDS[type].has(name)));
}
