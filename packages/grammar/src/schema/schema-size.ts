import { isRecord } from "@readme-moe/core";
import type { JsonSchema } from "./honoured-schema.ts";

const MAX_DEPTH = 128;
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
    if (depth > MAX_DEPTH) throw new RangeError(`Expected schemas nested at most ${MAX_DEPTH} levels deep`);
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
