// Unicode normalization puts combining marks in order by insertion, which takes a square of the time for a long run of
// them. Marks that are in order already take none.

import { CHUNK_LENGTH } from "./in-chunks.ts";

export type NormalizationForm = "NFC" | "NFD" | "NFKC" | "NFKD";

// Halfwidth voiced marks are letters that the compatibility forms turn into marks.
const MARK_RUN = /[\p{M}\uff9e\uff9f]{33,}/gu;

/** Classes of marks in order, by one mark of each; and the class of each mark that has come. */
const classes: string[] = [];
const classOf = new Map<string, string>();

/** A text with the same normalization, whose long runs of marks are in order. */
export function* orderMarkRuns(text: string, form: NormalizationForm): Generator<void, string> {
  const parts: string[] = [];
  let end = 0;
  for (const { 0: run, index } of text.matchAll(MARK_RUN)) {
    parts.push(text.slice(end, index), yield* orderMarks(run, form === "NFC" || form === "NFD" ? "NFD" : "NFKD"));
    end = index + run.length;
  }
  return end === 0 ? text : parts.join("") + text.slice(end);
}

function* orderMarks(run: string, decomposition: "NFD" | "NFKD"): Generator<void, string> {
  let ordered = "";
  let byClass = new Map<string, string[]>();
  let count = 0;
  const flush = (): void => {
    for (const name of classes) ordered += byClass.get(name)?.join("") ?? "";
    byClass = new Map();
  };
  for (const character of run) {
    for (const mark of character.normalize(decomposition)) {
      const name = markClass(mark);
      if (name === undefined) {
        // A mark that is never reordered, and that no other is moved past.
        flush();
        ordered += mark;
        continue;
      }
      const marks = byClass.get(name);
      if (marks) marks.push(mark);
      else byClass.set(name, [mark]);
    }
    if (++count % CHUNK_LENGTH === 0) yield;
  }
  flush();
  return ordered;
}

/** The mark that stands for a mark's combining class; `undefined` for class 0. */
function markClass(mark: string): string | undefined {
  const known = classOf.get(mark);
  if (known !== undefined) return known === "" ? undefined : known;
  const name = findClass(mark);
  classOf.set(mark, name ?? "");
  return name;
}

function findClass(mark: string): string | undefined {
  // Class 240 is the highest and class 1 the lowest: each other class changes places with one of the two.
  if (!comesBefore(mark, "\u0345") && !comesBefore("\u0334", mark)) return undefined;
  const at = classes.findIndex((other) => !comesBefore(other, mark));
  const other = classes[at];
  if (other !== undefined && !comesBefore(mark, other)) return other;
  classes.splice(at === -1 ? classes.length : at, 0, mark);
  return mark;
}

/** Whether the class of `first` is the lower one. */
function comesBefore(first: string, second: string): boolean {
  return first !== second && (second + first).normalize("NFD") === first + second;
}
