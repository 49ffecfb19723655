// A step in the kernel's format: one array of numbers; and the angles of its positions.

import { type ModelConfig, queryFactor, rotatedBy, ropeTables } from "@readme-moe/model";
import type { Kernel } from "./kernel.ts";
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
  /** State in front of the first token, of a model with recurrences. @default none, at position 0 */
  readonly state?: number | undefined;
  /** States to save, of such a model: behind the last token, and behind others. @default none */
  readonly saves?: readonly StateSave[] | undefined;
}

/** A state that a step writes. */
interface StateSave {
  /** Index of the token behind which the state is, in rising order. */
  readonly token: number;
  /** Number of the state. That behind the last token may be the one in front of the first. */
  readonly state: number;
}

/** Tokens `[from, to)` of one of several sequences. */
export interface StepPiece {
  readonly sequence: number;
  readonly from: number;
  readonly to: number;
}

/**
 * Splits sequences into steps of at most `maxRows` tokens, in order. Where a sequence is split changes no bit.
 * @param areWhole - whether sequences, none of more than `maxRows` tokens, are not split
 */
export function splitIntoSteps(
  lengths: readonly number[],
  maxRows: number,
  areWhole = false,
): readonly (readonly StepPiece[])[] {
  const steps: StepPiece[][] = [];
  let room = 0;
  for (const [sequence, length] of lengths.entries()) {
    if (areWhole && length > room) room = 0;
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

const HEADER = 7;
/** Numbers of a sequence in a request. */
const SEQUENCE = 4;

/**
 * Encodes a step. The kernel checks its numbers.
 *
 * @param numFullRows - number of rows of the results' full logits
 * @throws {RangeError} when a list is too short
 */
export function encodeStep(sequences: readonly StepRows[], numCandidates: number, numFullRows = 0): Int32Array {
  let [numRows, numWanted, numPages, numSaves] = [0, 0, 0, 0];
  for (const sequence of sequences) {
    checkLengths(sequence);
    numRows += sequence.tokenIds.length;
    numWanted += sequence.logitsOf.length;
    numPages += pagesOf(sequence);
    numSaves += sequence.saves?.length ?? 0;
  }
  const length = HEADER + 3 * numRows + SEQUENCE * sequences.length + numPages + 3 * numWanted + 2 * numSaves;
  const request = new Int32Array(length);
  request.set([numRows, sequences.length, numWanted, numCandidates, numPages, numFullRows, numSaves]);
  let token = HEADER;
  let sequenceAt = token + 3 * numRows;
  const firstPage = sequenceAt + SEQUENCE * sequences.length;
  let page = firstPage;
  let wanted = page + numPages;
  let save = wanted + 3 * numWanted;
  let firstRow = 0;
  for (const sequence of sequences) {
    const { tokenIds, experts, loras, position, pages, logitsOf, targets, fullPlaces } = sequence;
    request[sequenceAt++] = tokenIds.length;
    request[sequenceAt++] = position;
    request[sequenceAt++] = page - firstPage;
    request[sequenceAt++] = sequence.state ?? -1;
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
    for (const { token: row, state } of sequence.saves ?? []) {
      request[save] = firstRow + row;
      request[save++ + numSaves] = state;
    }
    firstRow += tokenIds.length;
  }
  return request;
}

function pagesOf({ position, tokenIds }: StepRows): number {
  return Math.ceil((position + tokenIds.length) / KV_PAGE_TOKENS);
}

function checkLengths(sequence: StepRows): void {
  const { tokenIds, pages, logitsOf } = sequence;
  const { experts = tokenIds, loras = tokenIds, targets = logitsOf, fullPlaces = logitsOf } = sequence;
  const isWhole =
    [experts, loras].every(({ length }) => length === tokenIds.length) &&
    [targets, fullPlaces].every(({ length }) => length === logitsOf.length) &&
    pages.length >= pagesOf(sequence);
  if (!isWhole) throw new RangeError("Expected an entry for each token, for each wanted row, and for each page");
}

// Rotary angles of positions, computed when a position is first used.

/** Positions whose angles are computed at a time. */
const POSITIONS = 256;

/** Properties of a model's angles. */
export type Angles = Pick<ModelConfig, "ropes" | "rotatedSize" | "queryGrowth">;

/** Counts a model's sets of angles: its ropes, then as many for queries where these grow. */
function numAngleSets({ ropes, queryGrowth }: Angles): number {
  return queryGrowth ? 2 * ropes.length : ropes.length;
}

/** Lists the angles of positions `[from, to)` for `setAngles`: of each the cosines, then the sines. */
export function anglesOf(config: Angles, set: number, from: number, to: number): Float32Array {
  const { ropes, queryGrowth } = config;
  const size = rotatedBy(config, set);
  const { cos, sin } = ropeTables(ropes[set % ropes.length]!, size, from, to);
  const half = size / 2;
  const angles = new Float32Array((to - from) * size);
  for (let row = 0; row < to - from; row++) {
    angles.set(cos.subarray(row * half, (row + 1) * half), row * size);
    angles.set(sin.subarray(row * half, (row + 1) * half), row * size + half);
    if (!queryGrowth || set < ropes.length) continue;
    const factor = queryFactor(queryGrowth, from + row);
    for (let i = row * size; i < (row + 1) * size; i++) angles[i] = angles[i]! * factor;
  }
  return angles;
}

/** Passes angles to a kernel when a sequence first reaches their positions. */
export class GrowingAngles {
  readonly #kernel: Kernel;
  readonly #config: Angles;
  readonly #maxPositions: number;
  #numPositions = 0;

  constructor(kernel: Kernel, config: Angles & Pick<ModelConfig, "contextTokens">) {
    this.#kernel = kernel;
    this.#config = config;
    this.#maxPositions = config.contextTokens;
  }

  /** Makes sure that the kernel has the angles of positions below `numPositions`, at most those of the context. */
  reach(numPositions: number): void {
    while (this.#numPositions < numPositions) {
      const from = this.#numPositions;
      const to = Math.min(this.#maxPositions, from + POSITIONS);
      for (let set = 0; set < numAngleSets(this.#config); set++) {
        this.#kernel.setAngles(set, from, anglesOf(this.#config, set, from, to));
      }
      this.#numPositions = to;
    }
  }
}
