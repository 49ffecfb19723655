// Schemas without bounds on the lengths of strings, whose grammars find masks faster.

import { isRecord } from "@readme-moe/core";
import type { SchemaObject } from "./keywords.ts";

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
