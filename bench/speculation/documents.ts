// Documents that the requests are made of, and passages of them.

import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";

/** Kinds of documents that hold prose. */
const PROSE = ["wikipedia", "c4", "common_crawl", "book"] as const;
const CODE = "github";

export interface Document {
  /** File and line, such as `wikipedia#13`. */
  readonly name: string;
  readonly text: string;
}

export interface Documents {
  /** Prose of several kinds by turns. */
  readonly prose: readonly Document[];
  readonly code: readonly Document[];
}

/**
 * Reads the documents with an odd index of a folder of `<kind>.jsonl`. Those with an even index are for choosing
 * options, and are never measured.
 */
export async function readOddDocuments(folder: string): Promise<Documents> {
  const read = async (kind: string): Promise<readonly Document[]> =>
    oddDocuments(kind, await readFile(join(folder, `${kind}.jsonl`), "utf8"));
  const [code, ...prose] = await Promise.all([CODE, ...PROSE].map(read));
  return { prose: byTurns(prose), code: code ?? [] };
}

/** Parses lines of JSON, and keeps those with an odd index. */
export function oddDocuments(kind: string, lines: string): readonly Document[] {
  return lines
    .trimEnd()
    .split("\n")
    .flatMap((line, index) => {
      if (index % 2 === 0) return [];
      const { text } = JSON.parse(line) as { readonly text: string };
      return [{ name: `${basename(kind, ".jsonl")}#${index}`, text }];
    });
}

/** Takes one value of each list in turn, until all lists are empty. */
export function byTurns<Value>(lists: readonly (readonly Value[])[]): readonly Value[] {
  const longest = Math.max(0, ...lists.map((list) => list.length));
  return Array.from({ length: longest }, (_, index) => lists.flatMap((list) => list.slice(index, index + 1))).flat();
}

export interface PassageLimits {
  readonly minChars: number;
  readonly maxChars: number;
}

const MIN_SENTENCE_CHARS = 40;
const MAX_SENTENCE_CHARS = 240;
// A sentence that names its words, without tables, markup or lists.
const PLAIN_SENTENCE = /^[A-Z][\w ,;:'’–-]+[.!?]$/;

/** Finds the first plain sentences of a document in a row that fit the limits; `undefined` if there are none. */
export function sentencesOf({ text }: Document, { minChars, maxChars }: PassageLimits): readonly string[] | undefined {
  const all = text.replaceAll(/\s+/g, " ").split(/(?<=[.!?]) (?=[A-Z])/);
  let run: string[] = [];
  let chars = 0;
  for (const sentence of all) {
    const isPlain =
      sentence.length >= MIN_SENTENCE_CHARS && sentence.length <= MAX_SENTENCE_CHARS && PLAIN_SENTENCE.test(sentence);
    if (!isPlain || chars + sentence.length > maxChars) [run, chars] = [[], 0];
    if (!isPlain || run.includes(sentence)) continue;
    run.push(sentence);
    chars += sentence.length + 1;
    if (run.length >= 3 && chars >= minChars) return run;
  }
  return undefined;
}

/** Lines of code in a row, and a name that occurs in several of them. */
export interface CodePassage {
  readonly lines: readonly string[];
  readonly name: string;
}

const MAX_LINE_CHARS = 76;
const MIN_NAME_USES = 3;
const NAME = /\b[a-z_][A-Za-z_]{3,}\b/g;
// Words that are no names in any of the languages.
const KEYWORDS = new Set(
  (
    "this self true false null None const return import from else elif function class while break case switch public " +
    "private static void await async export default yield throw catch with using namespace struct echo then done " +
    "string undefined typeof instanceof require module exports print super extends finally lambda pass raise"
  ).split(" "),
);

/** Finds the first lines of code in a row with a name to replace; `undefined` if there are none. */
export function codeOf({ text }: Document, numLines: number): CodePassage | undefined {
  const all = text.split("\n").map((line) => line.trimEnd());
  for (let from = 0; from + numLines <= all.length; from++) {
    const lines = all.slice(from, from + numLines);
    const isWhole = lines[0] !== "" && lines.at(-1) !== "" && /^\S/.test(lines[0] ?? "");
    const numBlank = lines.filter((line) => line === "").length;
    if (!isWhole || numBlank > 2 || lines.some((line) => !isCode(line))) continue;
    const name = nameOf(lines);
    if (name !== undefined) return { lines, name };
  }
  return undefined;
}

function isCode(line: string): boolean {
  return line.length <= MAX_LINE_CHARS && /^[\x20-\x7e]*$/.test(line) && !/=====|```|^\s*(?:\/?\*|#|\/\/)/.test(line);
}

/** Chooses the name that most lines use; the first one of several. */
function nameOf(lines: readonly string[]): string | undefined {
  const uses = new Map<string, number>();
  for (const line of lines) {
    for (const name of new Set(line.match(NAME))) if (!KEYWORDS.has(name)) uses.set(name, (uses.get(name) ?? 0) + 1);
  }
  const [most] = Array.from(uses).toSorted(([, a], [, b]) => b - a);
  return most && most[1] >= MIN_NAME_USES ? most[0] : undefined;
}
