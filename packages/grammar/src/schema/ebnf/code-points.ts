// Sets of characters, and their grammars.

/** Ranges, both ends included; sorted, with gaps between them. */
export type CodePoints = readonly (readonly [number, number])[];

const LAST = 0x10_ffff;
const LAST_ASCII = 0x7f;
const NUM_SURROGATES = 0x800;
const MAX_SINGLE = 256;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
/** Characters that JSON escapes, and halves of surrogate pairs. */
const UNSAFE: CodePoints = [
  [0, 0x1f],
  [QUOTE, QUOTE],
  [BACKSLASH, BACKSLASH],
  [0xd800, 0xdfff],
];

const OUTSIDE_ASCII: CodePoints = [
  [0x80, 0xd7ff],
  [0xe000, LAST],
];

export function union(sets: readonly CodePoints[]): CodePoints {
  const merged: [number, number][] = [];
  for (const [from, to] of sets.flat().toSorted((one, other) => one[0] - other[0])) {
    const last = merged.at(-1);
    if (last && from <= last[1] + 1) last[1] = Math.max(last[1], to);
    else merged.push([from, to]);
  }
  return merged;
}

export function complement(set: CodePoints): CodePoints {
  const rest: [number, number][] = [];
  let next = 0;
  for (const [from, to] of union([set])) {
    if (from > next) rest.push([next, from - 1]);
    next = to + 1;
  }
  return next > LAST ? rest : [...rest, [next, LAST]];
}

const SAFE = complement(UNSAFE);

/** Writes the grammar of one character of a set; `undefined` when there is none that can be written. */
export function plainCharacter(set: CodePoints): string | undefined {
  return choiceOf(charactersOf(set));
}

/**
 * Writes the grammar of one character of a set inside a JSON string; `undefined` when there is none that can be
 * written.
 */
export function jsonCharacter(set: CodePoints): string | undefined {
  const escapes = [QUOTE, BACKSLASH, ...CONTROLS.keys()]
    .filter((code) => set.some(([from, to]) => from <= code && code <= to))
    .map((code) => literal(`\\${CONTROLS.get(code) ?? String.fromCharCode(code)}`));
  return choiceOf([...charactersOf(intersection(set, SAFE)), ...escapes]);
}

/**
 * The library (0.1.27) gets classes outside ASCII wrong, except that of all characters outside ASCII. So a few
 * characters are written one by one; of larger sets, only ASCII remains.
 */
function charactersOf(set: CodePoints): readonly string[] {
  const ascii = intersection(set, [[0, LAST_ASCII]]);
  const other = intersection(set, OUTSIDE_ASCII);
  const choices =
    ascii.length > 0 ? [`[${ascii.map(([from, to]) => `${escaped(from)}-${escaped(to)}`).join("")}]`] : [];
  const count = other.reduce((sum, [from, to]) => sum + to - from + 1, 0);
  if (count === 0) return choices;
  if (count === LAST - LAST_ASCII - NUM_SURROGATES) return [...choices, "[^\\x00-\\x7f]"];
  if (count > MAX_SINGLE) return choices;
  const codes = other.flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, index) => from + index));
  return [...choices, ...codes.map((code) => `"${escaped(code)}"`)];
}

function intersection(one: CodePoints, other: CodePoints): CodePoints {
  const common: [number, number][] = [];
  for (let [index, at] = [0, 0]; index < one.length && at < other.length;) {
    const [from, to] = one[index] as CodePoints[number];
    const [otherFrom, otherTo] = other[at] as CodePoints[number];
    const [first, last] = [Math.max(from, otherFrom), Math.min(to, otherTo)];
    if (first <= last) common.push([first, last]);
    if (to < otherTo) index++;
    else at++;
  }
  return common;
}

function choiceOf(choices: readonly string[]): string | undefined {
  return choices.length === 0 ? undefined : `(${choices.join(" | ")})`;
}

const CONTROLS: ReadonlyMap<number, string> = new Map([
  [0x09, "t"],
  [0x0a, "n"],
  [0x0d, "r"],
]);

/** Writes a text with every character as its number, so that none has a special meaning. */
export function literal(text: string): string {
  return `"${Array.from(text, (character) => escaped(character.codePointAt(0) as number)).join("")}"`;
}

/** Least length that `literal` writes: the quotes, and a number for at least every second unit. */
export function leastLiteralLength(text: string): number {
  return 2 + 5 * text.length;
}

function escaped(code: number): string {
  return `\\U${code.toString(16).padStart(8, "0")}`;
}
