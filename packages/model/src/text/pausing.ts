// Work on long texts in short steps: a generator yields where its caller may do something else.

/** Number of UTF-16 units that are worked on between two pauses. */
export const CHUNK_LENGTH: number = 2 ** 14;

/** Runs work to its end without a pause. */
export function finish<Result>(work: Generator<void, Result>): Result {
  for (;;) {
    const { done, value } = work.next();
    if (done === true) return value;
  }
}

/** Returns the end of the chunk that begins at `start`, which is never inside a surrogate pair. */
function chunkEnd(text: string, start: number): number {
  const end = Math.min(start + CHUNK_LENGTH, text.length);
  return end < text.length && isTrailSurrogate(text.charCodeAt(end)) ? end + 1 : end;
}

/** Applies `map`, which works character by character, to each chunk of a text. */
export function* mapChunks(text: string, map: (chunk: string) => string): Generator<void, string[]> {
  const parts: string[] = [];
  for (let start = 0; start < text.length;) {
    const end = chunkEnd(text, start);
    parts.push(map(text.slice(start, end)));
    start = end;
    yield;
  }
  return parts;
}

/** Applies `map`, which works character by character, to a text. */
export function* mapText(text: string, map: (chunk: string) => string): Generator<void, string> {
  return (yield* mapChunks(text, map)).join("");
}

/** Replaces every `from` in `text`, from left to right. */
export function* replaceInChunks(text: string, from: string, to: string): Generator<void, string> {
  const parts: string[] = [];
  for (let start = 0; start < text.length;) {
    const end = Math.min(start + CHUNK_LENGTH + from.length, text.length);
    const chunk = text.slice(start, end);
    const lastMatch = lastMatchEnd(chunk, from);
    // A match that crosses the end begins in the last `from.length - 1` characters.
    const length = end === text.length ? chunk.length : Math.max(lastMatch, chunk.length - from.length + 1);
    parts.push(chunk.slice(0, length).replaceAll(from, () => to));
    start += length;
    if (start < text.length) yield;
  }
  return parts.join("");
}

/** Returns the end of the last match of a search from the left, 0 without a match. */
function lastMatchEnd(text: string, pattern: string): number {
  let end = 0;
  for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, end)) end = at + pattern.length;
  return end;
}

function isTrailSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}

// Unicode normalization of long texts, with pauses and in linear time.

type NormalizationForm = "NFC" | "NFD" | "NFKC" | "NFKD";

/** Computes `text.normalize(form)`, chunk by chunk; chunks are cut where neither side affects the other. */
export function* normalizeInChunks(text: string, form: NormalizationForm): Generator<void, string> {
  const parts: string[] = [];
  for (let start = 0; start < text.length;) {
    const end = yield* safeEnd(text, start, form);
    parts.push((yield* orderMarkRuns(text.slice(start, end), form)).normalize(form));
    start = end;
    if (start < text.length) yield;
  }
  return parts.join("");
}

function* safeEnd(text: string, start: number, form: NormalizationForm): Generator<void, number> {
  let end = start + CHUNK_LENGTH;
  for (let count = 0; end < text.length && !isBoundary(text, end, form); count++) {
    end++;
    if (count % CHUNK_LENGTH === CHUNK_LENGTH - 1) yield;
  }
  return Math.min(end, text.length);
}

// Marks, and characters that compose with the one before: vowels and final consonants of Hangul and of Kirat Rai.
const CONTINUES = /^[\p{M}\u1160-\u11ff\ud7b0-\ud7ff\u{16d40}-\u{16d7f}]/u;

/** Checks that the character at `at` neither composes with earlier ones nor moves before them. */
function isBoundary(text: string, at: number, form: NormalizationForm): boolean {
  const unit = text.charCodeAt(at);
  if (unit < 0x300) return true;
  if (unit >= 0xdc00 && unit <= 0xdfff) return false;
  const character = String.fromCodePoint(text.codePointAt(at) ?? unit);
  return !CONTINUES.test(character.normalize(decompositionOf(form)));
}

function decompositionOf(form: NormalizationForm): "NFD" | "NFKD" {
  return form === "NFC" || form === "NFD" ? "NFD" : "NFKD";
}

// The system orders combining marks by insertion, which takes quadratic time for a long run of them. A run that is
// in order already takes linear time. Halfwidth voiced marks are letters that the compatibility forms turn into marks.
const MARK_RUN = /[\p{M}\uff9e\uff9f]{33,}/gu;

/** One mark of each combining class seen so far, in the order of the classes. */
const classes: string[] = [];
/** Representative of the class of each mark seen so far; empty for class 0. */
const classOf = new Map<string, string>();

/** Sorts the long runs of marks in a text, which does not change its normalization. */
function* orderMarkRuns(text: string, form: NormalizationForm): Generator<void, string> {
  const parts: string[] = [];
  let end = 0;
  for (const { 0: run, index } of text.matchAll(MARK_RUN)) {
    parts.push(text.slice(end, index), yield* orderMarks(run, decompositionOf(form)));
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
        // Marks of class 0 are never reordered, and no mark moves past them.
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

/** Returns the mark that represents a mark's combining class, or `undefined` for class 0. */
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

/** Checks that the class of `first` is the lower one. */
function comesBefore(first: string, second: string): boolean {
  return first !== second && (second + first).normalize("NFD") === first + second;
}
