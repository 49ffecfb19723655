// A step in the kernel's format: one array of numbers, checked before native code sees it.

import { integerOption } from "@readme-moe/core";
import { KV_PAGE_TOKENS } from "./kv/page-pool.ts";

/** Rows of one sequence in a step. */
export interface StepRows {
  /** Appended tokens, at least one. */
  readonly tokenIds: ArrayLike<number>;
  /** Expert of each token. @default 0, the only one of a dense model */
  readonly experts?: ArrayLike<number> | undefined;
  /** Slot of the lora of each token, -1 for none. @default none */
  readonly loras?: ArrayLike<number> | undefined;
  /** Position of the first token. */
  readonly position: number;
  /** Pages of positions 0 and up; may be more than these rows need. */
  readonly pages: ArrayLike<number>;
  /** Indices of `tokenIds` whose logits are wanted, in rising order; one may occur several times. */
  readonly logitsOf: readonly number[];
  /** Output of the head (a token) whose logit is wanted, for each of `logitsOf`. @default 0 */
  readonly targets?: ArrayLike<number> | undefined;
  /** Row of the results' full logits, for each of `logitsOf`. @default none */
  readonly fullPlaces?: ArrayLike<number> | undefined;
}

/** Limits of the kernel and its memory on a step. */
export interface StepLimits {
  readonly vocabSize: number;
  /** Number of outputs from which targets and candidates are chosen. @default `vocabSize` */
  readonly numLogits?: number | undefined;
  readonly maxRows: number;
  readonly maxPositions: number;
  readonly numPages: number;
  /** @default 1 */
  readonly numExperts?: number | undefined;
  /** Number of slots of loras. @default 0 */
  readonly numLoras?: number | undefined;
  /** Number of rows of the results' full logits. */
  readonly numFullRows: number;
}

/** Tokens `[from, to)` of one of several sequences. */
export interface StepPiece {
  readonly sequence: number;
  readonly from: number;
  readonly to: number;
}

/** Splits sequences into steps of at most `maxRows` tokens, in order. Where a sequence is split loras no bit. */
export function splitIntoSteps(lengths: readonly number[], maxRows: number): readonly (readonly StepPiece[])[] {
  const steps: StepPiece[][] = [];
  let room = 0;
  for (const [sequence, length] of lengths.entries()) {
    for (let from = 0; from < length;) {
      if (room === 0) {
        steps.push([]);
        room = maxRows;
      }
      const to = Math.min(length, from + room);
      steps.at(-1)?.push({ sequence, from, to });
      room -= to - from;
      from = to;
    }
  }
  return steps;
}

const HEADER = 6;

/** @throws {RangeError} naming what is out of range */
export function encodeStep(sequences: readonly StepRows[], numCandidates: number, limits: StepLimits): Int32Array {
  integerOption("numCandidates", numCandidates, 1, limits.numLogits ?? limits.vocabSize);
  let [numRows, numWanted, numPages] = [0, 0, 0];
  for (const sequence of sequences) {
    checkRows(sequence, limits);
    numRows += sequence.tokenIds.length;
    numWanted += sequence.logitsOf.length;
    numPages += pagesOf(sequence);
  }
  integerOption("rows of a step", numRows, 1, limits.maxRows);
  const length = HEADER + 3 * numRows + 3 * sequences.length + numPages + 3 * numWanted;
  const request = new Int32Array(length);
  request.set([numRows, sequences.length, numWanted, numCandidates, numPages, limits.numFullRows]);
  let token = HEADER;
  let sequenceAt = token + 3 * numRows;
  const firstPage = sequenceAt + 3 * sequences.length;
  let page = firstPage;
  let wanted = page + numPages;
  let firstRow = 0;
  for (const sequence of sequences) {
    const { tokenIds, experts, loras, position, pages, logitsOf, targets, fullPlaces } = sequence;
    request[sequenceAt++] = tokenIds.length;
    request[sequenceAt++] = position;
    request[sequenceAt++] = page - firstPage;
    for (let i = 0; i < tokenIds.length; i++, token++) {
      request[token] = tokenIds[i]!;
      request[token + numRows] = experts?.[i] ?? 0;
      request[token + 2 * numRows] = loras?.[i] ?? -1;
    }
    for (let i = 0; i < pagesOf(sequence); i++) request[page++] = pages[i]!;
    for (const [index, row] of logitsOf.entries()) {
      request[wanted] = firstRow + row;
      request[wanted + numWanted] = targets?.[index] ?? 0;
      request[wanted + 2 * numWanted] = fullPlaces?.[index] ?? -1;
      wanted++;
    }
    firstRow += tokenIds.length;
  }
  return request;
}

function pagesOf({ position, tokenIds }: StepRows): number {
  return Math.ceil((position + tokenIds.length) / KV_PAGE_TOKENS);
}

function checkRows(sequence: StepRows, limits: StepLimits): void {
  const {
    vocabSize,
    numLogits = vocabSize,
    maxPositions,
    numPages,
    numFullRows,
    numExperts = 1,
    numLoras = 0,
  } = limits;
  const { tokenIds, experts, loras, position, pages, logitsOf, targets, fullPlaces } = sequence;
  integerOption("tokens of a sequence", tokenIds.length, 1, maxPositions);
  integerOption("position", position, 0, maxPositions - tokenIds.length);
  for (let i = 0; i < tokenIds.length; i++) integerOption(`tokenIds[${i}]`, tokenIds[i], 0, vocabSize - 1);
  checkEntries("experts", experts, tokenIds.length, numExperts);
  checkEntries("loras", loras, tokenIds.length, numLoras);
  const needed = pagesOf(sequence);
  if (pages.length < needed) throw new RangeError(`Expected \`pages\` to hold ${needed} pages, got ${pages.length}`);
  for (let i = 0; i < needed; i++) integerOption(`pages[${i}]`, pages[i], 0, numPages - 1);
  let least = 0;
  for (const row of logitsOf) least = integerOption("logitsOf", row, least, tokenIds.length - 1);
  checkEntries("targets", targets, logitsOf.length, numLogits);
  checkEntries("fullPlaces", fullPlaces, logitsOf.length, numFullRows);
}

/** Checks a list with one entry for each of `count` rows, below `end` and from 0, or from -1 in `loras`. */
function checkEntries(name: string, entries: ArrayLike<number> | undefined, count: number, end: number): void {
  if (!entries) return;
  if (entries.length !== count) {
    throw new RangeError(`Expected \`${name}\` to have one entry for each of ${count} rows`);
  }
  const least = name === "loras" ? -1 : 0;
  for (let i = 0; i < count; i++) integerOption(`${name}[${i}]`, entries[i], least, end - 1);
}
