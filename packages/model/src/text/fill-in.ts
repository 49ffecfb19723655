// Prompts whose answer fills a gap: the marks of a model around texts in which nothing is a control token.

import type { FillInPrompt } from "@readme-moe/core";
import { joinIds } from "./bpe-model.ts";
import { type FillInMarks, fillInMarks } from "./fill-in-marks.ts";
import type { EncodeOptions, Tokenizer } from "./tokenizer.ts";

/** Names that stand for those that a prompt does not give. */
const [SOME_REPOSITORY, SOME_FILE] = ["project", "file"];

/** A character that joins no word. SentencePiece puts its space before it. */
const APART = "☺";

/** A mark, or a text; `joins` leaves out the space that SentencePiece puts before a text. */
type Part = number | { readonly text: string; readonly joins?: boolean | undefined };

type Limits = Pick<EncodeOptions, "maxTokens" | "tooMany">;

interface FillInLimits extends Limits {
  /** Number of tokens up to which other files are added. The first of them are left out first. @default Infinity */
  readonly filesWithinTokens?: number;
}

/**
 * Encodes a prompt in steps like those of `Tokenizer.encodeInSteps`. Spellings of control tokens are text in all its
 * texts. Other files come first, so that the beginning of the prompt stays the same while its user types.
 *
 * @throws {TypeError} when the model has no marks; {ReadMeError} `ERR_CONTEXT_LENGTH`
 */
export function* encodeFillIn(
  tokenizer: Tokenizer,
  prompt: FillInPrompt,
  { filesWithinTokens = Infinity, ...limits }: FillInLimits = {},
): Generator<void, Int32Array> {
  const marks = fillInMarks(tokenizer);
  if (marks === undefined) throw new TypeError("Expected a model with marks to fill in the middle");
  const opening = Int32Array.from(tokenizer.openingIds);
  const gap = yield* encodeParts(tokenizer, gapParts(marks, prompt), limits);
  const files = yield* encodeFiles(tokenizer, { marks, prompt, room: filesWithinTokens - opening.length - gap.length });
  return joinIds([opening, files, gap]);
}

function gapParts({ prefix, suffix, middle, ...how }: FillInMarks, texts: FillInPrompt): readonly Part[] {
  const before: readonly Part[] = [prefix.id, { text: texts.prefix }];
  const behind: readonly Part[] = [suffix.id, { text: texts.suffix, joins: how.joinsSuffix }];
  const both = how.isSuffixFirst ? [...behind, ...before] : [...before, ...behind];
  return middle ? [...both, middle.id] : both;
}

/** Marks and texts of other files, and the number of tokens that they may have. */
interface FileSettings {
  readonly marks: FillInMarks;
  readonly prompt: FillInPrompt;
  readonly room: number;
}

/** Encodes the last of the other files that have room, and the beginning of the file with the gap. */
function* encodeFiles(
  tokenizer: Tokenizer,
  { marks, prompt: { files = [], repository = SOME_REPOSITORY }, room }: FileSettings,
): Generator<void, Int32Array> {
  if (files.length === 0) return new Int32Array();
  const fileMark: readonly Part[] = marks.file ? [marks.file.id] : [];
  const head: readonly Part[] = marks.repository
    ? [marks.repository.id, { text: repository + (marks.afterRepository ?? "") }]
    : [];
  const first = yield* encodeParts(tokenizer, head);
  const last = yield* encodeParts(tokenizer, marks.file ? [...fileMark, { text: `${SOME_FILE}\n` }] : []);
  const kept: Int32Array[] = [];
  let left = room - first.length - last.length;
  for (const { name, text } of files.toReversed()) {
    const ending = text.endsWith("\n") ? "" : "\n";
    const parts = [...fileMark, { text: `${name}\n${text}${ending}` }];
    const ids = yield* encodeWithin(tokenizer, parts, left);
    if (ids === undefined) break;
    kept.unshift(ids);
    left -= ids.length;
  }
  return kept.length === 0 ? new Int32Array() : joinIds([first, ...kept, last]);
}

const NO_ROOM = new RangeError("No room for a file");

/** Encodes parts; `undefined` if they have more tokens. */
function* encodeWithin(
  tokenizer: Tokenizer,
  parts: readonly Part[],
  maxTokens: number,
): Generator<void, Int32Array | undefined> {
  try {
    const ids = yield* encodeParts(tokenizer, parts, { maxTokens, tooMany: () => NO_ROOM });
    return ids.length > maxTokens ? undefined : ids;
  } catch (error) {
    if (error === NO_ROOM) return undefined;
    throw error;
  }
}

function* encodeParts(
  tokenizer: Tokenizer,
  parts: readonly Part[],
  { maxTokens = Infinity, tooMany }: Limits = {},
): Generator<void, Int32Array> {
  const encoded: Int32Array[] = [];
  let numTokens = 0;
  for (const part of parts) {
    const before = numTokens;
    const limits = { maxTokens: maxTokens - before, ...(tooMany && { tooMany: (n: number) => tooMany(before + n) }) };
    const ids = typeof part === "number" ? Int32Array.of(part) : yield* encodeText(tokenizer, part, limits);
    encoded.push(ids);
    numTokens += ids.length;
  }
  return joinIds(encoded);
}

function* encodeText(
  tokenizer: Tokenizer,
  { text, joins = false }: Exclude<Part, number>,
  limits: Limits,
): Generator<void, Int32Array> {
  if (!joins || text === "") return yield* tokenizer.encodePlainInSteps(text, limits);
  const apart = tokenizer.encode(APART, { addSpecialTokens: false }).length;
  const ids = yield* tokenizer.encodePlainInSteps(APART + text, limits);
  return ids.slice(apart);
}
