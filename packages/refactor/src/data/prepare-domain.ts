// A domain's documents: some are held out, the rest is what statistics and the router are made from.

import type { Tokenizer } from "@readme-moe/model";
import { shuffled } from "../random.ts";

/** Every twelfth document is held out, the one with index 11 first. */
const HELD_OUT = { every: 12, index: 11 } as const;
// Long documents would fill a budget of tokens alone: they are cut, and their pieces are drawn like others.
const PIECE_CHARACTERS = 6000;

/** Texts of one kind. `files` says in the report where they came from. */
export interface DomainText {
  readonly name: string;
  readonly files: readonly string[];
  readonly documents: readonly string[];
  /** Of the documents, for the report; none where they are not known. */
  readonly licenses?: readonly string[] | undefined;
}

export interface DomainOptions {
  readonly calibrationTokens: number;
  /** At most so many tokens of other text for the router. */
  readonly routerTokens: number;
  readonly evaluationSequences: number;
  readonly sequenceTokens: number;
  readonly endOfText: number;
  readonly seed: number;
}

/** Sequences of `sequenceTokens` tokens each. */
export interface DomainData {
  readonly name: string;
  readonly calibration: readonly Int32Array[];
  /** Of the documents that calibration is drawn from, what it left. */
  readonly routerText: readonly Int32Array[];
  readonly evaluation: readonly Int32Array[];
  readonly calibrationDocuments: number;
  readonly heldOutDocuments: number;
}

/**
 * @throws {RangeError} naming the domain, when its text is too short for one sequence of either kind
 */
export function prepareDomain(
  { name, documents }: DomainText,
  tokenizer: Tokenizer,
  options: DomainOptions,
): DomainData {
  const { calibrationTokens, routerTokens, evaluationSequences, sequenceTokens, endOfText, seed } = options;
  const [kept, heldOut] = splitDocuments(documents);
  const cut = (texts: Iterable<string>, tokens: number): readonly Int32Array[] =>
    cutSequences(tokenizer, texts, endOfText, sequenceTokens, tokens);
  const drawn = cut(shuffled(kept.flatMap(pieces), seed), calibrationTokens + routerTokens);
  const numCalibration = Math.floor(calibrationTokens / sequenceTokens);
  // Of few sequences, too, as many documents as may be.
  const evaluation = cut(shuffled(heldOut.flatMap(pieces), seed), evaluationSequences * sequenceTokens);
  const expectation = `at least ${sequenceTokens} tokens to calibrate with and as many held out (every twelfth document)`;
  if (drawn.length === 0 || evaluation.length === 0) {
    const found = `${documents.length} document(s), ${drawn.length + evaluation.length} sequence(s)`;
    throw new RangeError(`Expected data of ${JSON.stringify(name)} to have ${expectation}, got ${found}`);
  }
  return {
    name,
    calibration: drawn.slice(0, numCalibration),
    routerText: drawn.slice(numCalibration),
    evaluation,
    calibrationDocuments: kept.length,
    heldOutDocuments: heldOut.length,
  };
}

/** Of few documents, the last is held out; of a single one, its last twelfth. */
function splitDocuments(documents: readonly string[]): readonly [kept: readonly string[], heldOut: readonly string[]] {
  const isHeldOut = (index: number): boolean => index % HELD_OUT.every === HELD_OUT.index;
  if (documents.length >= HELD_OUT.every) {
    return [documents.filter((_, index) => !isHeldOut(index)), documents.filter((_, index) => isHeldOut(index))];
  }
  if (documents.length > 1) return [documents.slice(0, -1), documents.slice(-1)];
  const [only = ""] = documents;
  const end = Math.floor((only.length * (HELD_OUT.every - 1)) / HELD_OUT.every);
  return [[only.slice(0, end)], [only.slice(end)]];
}

function pieces(document: string): readonly string[] {
  const count = Math.ceil(document.length / PIECE_CHARACTERS);
  return Array.from({ length: count }, (_, i) => document.slice(i * PIECE_CHARACTERS, (i + 1) * PIECE_CHARACTERS));
}

/** Texts are each ended by `endOfText`, joined and cut; what does not fill a sequence is left out. */
function cutSequences(
  tokenizer: Tokenizer,
  texts: Iterable<string>,
  endOfText: number,
  length: number,
  maxTokens: number,
): readonly Int32Array[] {
  const joined: number[] = [];
  for (const text of texts) {
    if (joined.length >= maxTokens) break;
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) joined.push(id);
    joined.push(endOfText);
  }
  const count = Math.floor(Math.min(maxTokens, joined.length) / length);
  return Array.from({ length: count }, (_, i) => Int32Array.from(joined.slice(i * length, (i + 1) * length)));
}
