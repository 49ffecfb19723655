import { describeValue, nearestName } from "./options.ts";

/**
 * Finds an expert by its name or its index. Names take precedence, so that experts may be called 0, 1, 2. An empty name
 * is the place of an expert that was removed.
 *
 * @throws {RangeError} on an unknown expert; names the known ones
 */
export function expertIndex(names: readonly string[], choice: string | number): number {
  const named = names.indexOf(String(choice));
  if (named >= 0 && choice !== "") return named;
  const index = typeof choice === "number" || /^\d+$/.test(choice) ? Number(choice) : -1;
  if (Number.isInteger(index) && (names[index] ?? "") !== "") return index;
  const known = names.filter((name) => name !== "");
  const near = nearestName(String(choice), known);
  throw new RangeError(
    `Expected \`expert\` to be one of ${known.join(", ")}, or an index below ${names.length}, ` +
      `got ${describeValue(choice)}${near ? `; did you mean ${near}?` : ""}`,
  );
}
