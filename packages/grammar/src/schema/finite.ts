import type { Budget } from "./budget.ts";
import { isObject, type SchemaObject } from "./schema-error.ts";

/**
 * @param definitions - by the names that `#/$defs/<name>` gives them
 * @throws {TypeError} when no answer can come to an end, as for an object that has to hold one like itself
 */
export function checkFinite(
  schema: SchemaObject,
  definitions: ReadonlyMap<string, SchemaObject>,
  budget: Budget,
): void {
  const finite = new Set<string>();
  const ends = (part: unknown): boolean => {
    budget.spend(1);
    if (!isObject(part)) return true;
    const { $ref, anyOf, properties, required, items, minItems, prefixItems } = part;
    if (typeof $ref === "string") return finite.has($ref.slice("#/$defs/".length));
    if (Array.isArray(anyOf)) return anyOf.some(ends);
    if (Array.isArray(prefixItems)) return prefixItems.every(ends);
    if (typeof minItems === "number" && minItems > 0) return ends(items);
    return !(isObject(properties) && Array.isArray(required)) || required.every((name) => ends(properties[name]));
  };
  // Each round can show one more to be finite.
  for (let size = -1; size < finite.size;) {
    size = finite.size;
    for (const [name, part] of definitions) if (ends(part)) finite.add(name);
  }
  if (!ends(schema)) throw new TypeError("The schema allows no answer that comes to an end");
}
