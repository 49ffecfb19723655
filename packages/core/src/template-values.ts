// Limits of the values that a chat template gets: they come from callers, and templates walk through them recursively.

import { ReadMeError } from "./errors.ts";

// JSON Schemas of tools nest tens of levels deep; a long conversation with tools has about ten thousand values.
const [MAX_DEPTH, MAX_VALUES] = [100, 200_000];

/**
 * Checks all values that a chat template will see.
 * @throws {ReadMeError} `ERR_CHAT_TEMPLATE` on values that are nested too deep, including circular ones, or too many
 */
export function checkTemplateValues(...roots: readonly unknown[]): void {
  const waiting: { readonly value: object; readonly depth: number }[] = [];
  let numValues = 0;
  const look = (value: unknown, depth: number): void => {
    if (++numValues > MAX_VALUES) throw refused(`have more than ${MAX_VALUES} values`);
    if (typeof value !== "object" || value === null) return;
    if (depth > MAX_DEPTH) throw refused(`are nested more than ${MAX_DEPTH} deep`);
    waiting.push({ value, depth });
  };
  for (const root of roots) look(root, 0);
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    for (const value of Object.values(next.value)) look(value, next.depth + 1);
  }
}

function refused(what: string): ReadMeError {
  return new ReadMeError("ERR_CHAT_TEMPLATE", `The messages and the variables of their template ${what}`);
}
