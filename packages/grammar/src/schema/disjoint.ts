import { isObject, type SchemaObject } from "./schema-error.ts";

/** What is known of the parts of a schema that were honoured. */
export interface Known {
  /** What a part says that only refers to another; `undefined` where that is not yet known. */
  resolve(part: SchemaObject): SchemaObject | undefined;
  /** As it came it allowed more types than it does now. */
  isNarrowed(part: SchemaObject): boolean;
}

/** Whether no value is valid under two of these; `false` also where that is hard to say. */
export function isDisjoint(parts: readonly SchemaObject[], known: Known): boolean {
  const resolved = parts.map((part) => known.resolve(part));
  return resolved.every((one, index) =>
    resolved.slice(index + 1).every((other) => one && other && arePairDisjoint(one, other, known)),
  );
}

function arePairDisjoint(one: SchemaObject, other: SchemaObject, known: Known): boolean {
  const [kinds, otherKinds] = [kindsOf(one, known), kindsOf(other, known)];
  if (kinds && otherKinds && ![...kinds].some((kind) => otherKinds.has(kind))) return true;
  const [values, otherValues] = [valuesOf(one), valuesOf(other)];
  if (values && otherValues) return !values.some((value) => otherValues.includes(value));
  return tellsApart(one, other);
}

/** Both have a property whose values differ. */
function tellsApart(one: SchemaObject, other: SchemaObject): boolean {
  const [properties, otherProperties] = [one["properties"], other["properties"]];
  const [required, otherRequired] = [one["required"], other["required"]];
  if (!isObject(properties) || !isObject(otherProperties)) return false;
  if (!Array.isArray(required) || !Array.isArray(otherRequired)) return false;
  return required.some((name: string) => {
    if (!otherRequired.includes(name)) return false;
    const [values, otherValues] = [valuesOf(properties[name]), valuesOf(otherProperties[name])];
    return values !== undefined && otherValues !== undefined && !values.some((value) => otherValues.includes(value));
  });
}

function valuesOf(part: unknown): readonly unknown[] | undefined {
  return isObject(part) && Array.isArray(part["enum"]) ? part["enum"] : undefined;
}

function kindsOf(part: SchemaObject, known: Known): ReadonlySet<string> | undefined {
  if (known.isNarrowed(part)) return undefined;
  const { type, anyOf } = part;
  if (typeof type === "string") return new Set([type === "integer" ? "number" : type]);
  const values = valuesOf(part);
  if (values) return new Set(values.map((value) => (value === null ? "null" : typeof value)));
  if (!Array.isArray(anyOf)) return undefined;
  const kinds = anyOf.map((inner: SchemaObject) => kindsOf(inner, known));
  return kinds.includes(undefined) ? undefined : new Set(kinds.flatMap((inner) => [...(inner ?? [])]));
}
