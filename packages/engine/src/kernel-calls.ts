// The calls of the kernel that make up one step, and their results put together by sequence.

import { integerOption, ReadMeError } from "@readme-moe/core";
import {
  encodeStep,
  splitIntoSteps,
  type StepPiece,
  type Kernel,
  type KernelKv,
  type StepResults,
  type StepRows,
} from "@readme-moe/kernel";
import type { ModelConfig } from "@readme-moe/model";
import type { StepLogits, StepSequence } from "./step-runner.ts";

/**
 * Checks a sequence before a step: its lengths, and the rows that are wanted. The kernel checks ids.
 * @throws {RangeError | TypeError} on a wrong field; {ReadMeError} `ERR_CONTEXT_LENGTH`
 */
export function checkSequence(
  { tokenIds, experts, slot, logitsOf, targets }: StepSequence,
  { contextTokens }: Pick<ModelConfig, "contextTokens">,
): void {
  if (tokenIds.length === 0) throw new RangeError("Expected `tokenIds` to hold at least one token, got none");
  const asked = slot.numTokens + tokenIds.length;
  if (asked > contextTokens) {
    throw new ReadMeError("ERR_CONTEXT_LENGTH", `${asked} tokens do not fit the model's context of ${contextTokens}`);
  }
  if (experts.length !== tokenIds.length) {
    throw new RangeError(`Expected \`experts\` to have one entry for each of ${tokenIds.length} tokens`);
  }
  if (targets && targets.length !== logitsOf.length) {
    throw new RangeError(`Expected \`targets\` to have one entry for each of ${logitsOf.length} rows of logits`);
  }
  for (const row of logitsOf) integerOption("logitsOf", row, 0, tokenIds.length - 1);
}

interface WantedRow {
  /** Index into the sequence's `tokenIds`. */
  readonly token: number;
  /** Index into the sequence's `logitsOf`. */
  readonly place: number;
  readonly target: number;
}

/** Tokens `[from, to)` of a sequence, in one call. */
interface CallPart {
  readonly sequence: StepSequence;
  /** Index of the sequence in the step. */
  readonly index: number;
  readonly from: number;
  readonly to: number;
  /** Rows of logits that are wanted of these tokens, in rising order. */
  readonly wanted: readonly WantedRow[];
}

export interface KernelCall {
  readonly parts: readonly CallPart[];
  /** Distinct experts of its tokens, ascending. */
  readonly experts: readonly number[];
}

/**
 * Splits a step into calls within limits; the order of a sequence's tokens is kept.
 *
 * @param limits - largest number of rows of a call, and whether no sequence is split
 * @param fit - tells whether these experts fit in memory at once @default all do
 */
export function callsOf(
  sequences: readonly StepSequence[],
  { maxRows, areWhole = false }: { readonly maxRows: number; readonly areWhole?: boolean },
  fit?: (experts: ReadonlySet<number>) => boolean,
): readonly KernelCall[] {
  const wanted = sequences.map(({ logitsOf, targets }) =>
    logitsOf
      .map((token, place) => ({ token, place, target: targets?.[place] ?? 0 }))
      .toSorted((a, b) => a.token - b.token),
  );
  const lengths = sequences.map(({ tokenIds }) => tokenIds.length);
  const firstExpert = ({ sequence, from }: StepPiece): number => sequences[sequence]?.experts[from] ?? 0;
  // Neighbouring rows of one lora share what is read of it.
  const steps = splitIntoSteps(lengths, maxRows, areWhole).map((pieces) =>
    pieces.toSorted((a, b) => firstExpert(a) - firstExpert(b)),
  );
  const calls = fit ? steps.flatMap((pieces) => splitByExperts(pieces, sequences, fit)) : steps;
  return calls.map((pieces) => {
    const parts = pieces.flatMap(({ sequence: index, from, to }) => {
      const sequence = sequences[index];
      const own = wanted[index]?.filter(({ token }) => token >= from && token < to) ?? [];
      return sequence ? { sequence, index, from, to, wanted: own } : [];
    });
    const experts = parts.flatMap(({ sequence, from, to }) => sliceOf(sequence.experts, from, to));
    return { parts, experts: Array.from(new Set(experts)).sort((a, b) => a - b) };
  });
}

/** Splits the pieces of a call so that the experts of each new call fit in memory. One expert always fits. */
function splitByExperts(
  pieces: readonly StepPiece[],
  sequences: readonly StepSequence[],
  fit: (experts: ReadonlySet<number>) => boolean,
): readonly (readonly StepPiece[])[] {
  let call: StepPiece[] = [];
  const calls = [call];
  let experts = new Set<number>();
  for (const { sequence, from, to } of pieces) {
    const own = sequences[sequence]?.experts ?? [];
    let start = from;
    for (let token = from; token < to; token++) {
      const expert = own[token] ?? 0;
      if (experts.has(expert)) continue;
      const more = new Set(experts).add(expert);
      if (experts.size === 0 || fit(more)) {
        experts = more;
        continue;
      }
      if (token > start) call.push({ sequence, from: start, to: token });
      calls.push((call = []));
      [start, experts] = [token, new Set([expert])];
    }
    call.push({ sequence, from: start, to });
  }
  return calls;
}

function sliceOf(numbers: ArrayLike<number>, from: number, to: number): readonly number[] {
  return Array.from({ length: to - from }, (_, index) => numbers[from + index] ?? 0);
}

/** Numbers of a model's experts; it has FFN experts or loras. */
export interface ExpertCounts {
  readonly numExperts: number;
  readonly numLoras: number;
}

/** Counts the rows of a sequence's results. */
function numResults({ logitsOf, isAveraged }: StepSequence): number {
  return isAveraged ? 1 : logitsOf.length;
}

/** Puts the values of rows back to the model's order. */
function putBack(rows: Float32Array, channels: Uint32Array): void {
  const { length } = channels;
  const row = new Float32Array(length);
  for (let from = 0; from < rows.length; from += length) {
    for (let place = 0; place < length; place++) row[channels[place]!] = rows[from + place]!;
    rows.set(row, from);
  }
}

/** Results of the calls of a step. */
export class KernelResults {
  readonly #kernel: Kernel;
  readonly #numLogits: number;
  readonly #channels: Uint32Array | undefined;
  #candidateIds = new Int32Array(0);
  #logits = new Float32Array(0);
  #sums = new Float64Array(0);
  /** Rows of all logits; the next step overwrites them. */
  #fullLogits = new Float32Array(0);
  #numFullRows = 0;
  /** Index of each sequence's first row of all logits. */
  #firstFullRows: number[] = [];
  #numCandidates = 1;
  /** Numbers of a row of states, 0 if none are taken; rows of a call. */
  #statesWidth = 0;
  #states = new Float32Array(0);
  #results: StepLogits[] = [];
  /** Wanted rows of the last call, whose logits the kernel keeps, by sequence and place. */
  #lastRows: ReadonlyMap<number, readonly (number | undefined)[]> = new Map();
  /** Rows that were read after a step; the reads after the next step overwrite them. */
  readonly #readRows: Float32Array[] = [];
  #numRead = 0;

  /** @param channels - the model's channel at each place of a state @default its own order */
  constructor(kernel: Kernel, numLogits: number, channels?: Uint32Array) {
    this.#kernel = kernel;
    this.#numLogits = numLogits;
    this.#channels = channels;
  }

  /** Takes states from the kernel with each call. @param width - numbers of each row */
  followStates(width: number): void {
    this.#statesWidth = width;
  }

  begin(sequences: readonly StepSequence[], numCandidates: number): void {
    this.#numCandidates = numCandidates;
    this.#numRead = 0;
    this.#numFullRows = sequences.reduce((sum, s) => sum + (s.wantsFullLogits ? numResults(s) : 0), 0);
    if (this.#fullLogits.length < this.#numFullRows * this.#numLogits) {
      this.#fullLogits = new Float32Array(this.#numFullRows * this.#numLogits);
    }
    let fullRow = 0;
    this.#firstFullRows = [];
    const results = sequences.map((own, sequence) => {
      const { wantsFullLogits } = own;
      const length = numResults(own);
      const firstFull = fullRow * this.#numLogits;
      this.#firstFullRows.push(fullRow);
      if (wantsFullLogits) fullRow += length;
      return {
        candidateIds: new Int32Array(length * numCandidates),
        candidateLogits: new Float32Array(length * numCandidates),
        logSumExp: new Float32Array(length),
        targetLogProbs: new Float32Array(length),
        fullLogits: this.#fullLogits.subarray(firstFull, fullRow * this.#numLogits),
        states: this.#statesWidth > 0 ? new Float32Array(own.tokenIds.length * this.#statesWidth) : undefined,
        readRow: (place: number) => (this.#results === results ? this.#readRow(sequence, place) : undefined),
      };
    });
    this.#results = results;
  }

  /** Encodes a call of the step, and makes room for its results. */
  request(
    { parts }: KernelCall,
    kv: KernelKv,
    { numExperts, numLoras }: ExpertCounts,
  ): { readonly request: Int32Array; readonly room: StepResults } {
    const rows = parts.map(({ sequence, index, from, to, wanted }): StepRows => {
      const { slot, tokenIds, experts, wantsFullLogits, isAveraged, savesBehind = [] } = sequence;
      const { numTokens: position, pages } = kv.pageSlot(slot);
      const saved = [...savesBehind.filter((token) => token >= from && token < to - 1), to - 1].map(
        (token) => token - from,
      );
      const state = kv.states.before(slot);
      const states = kv.states.save(
        slot,
        saved.map((token) => position + token + 1),
        savesBehind.includes(to - 1),
      );
      const firstFullRow = this.#firstFullRows[index] ?? 0;
      return {
        tokenIds: sliceOf(tokenIds, from, to),
        experts: numExperts > 1 ? sliceOf(experts, from, to) : undefined,
        // Expert 0 is the model without a lora.
        loras: numLoras > 0 ? sliceOf(experts, from, to).map((expert) => expert - 1) : undefined,
        position,
        pages,
        logitsOf: wanted.map(({ token }) => token - from),
        targets: wanted.map(({ target }) => target),
        state,
        saves: states.map((own, place) => ({ token: saved[place]!, state: own })),
        fullPlaces: wantsFullLogits ? wanted.map(({ place }) => firstFullRow + (isAveraged ? 0 : place)) : undefined,
      };
    });
    const numWanted = parts.reduce((sum, { wanted }) => sum + wanted.length, 0);
    return {
      request: encodeStep(rows, this.#numCandidates, this.#numFullRows),
      room: this.#room(numWanted),
    };
  }

  /** Takes the results of the call that was requested last, and appends its tokens to their slots. */
  take({ parts }: KernelCall, kv: KernelKv): void {
    const numCandidates = this.#numCandidates;
    const firstTarget = numCandidates * parts.reduce((sum, { wanted }) => sum + wanted.length, 0);
    const lastRows = new Map<number, (number | undefined)[]>();
    this.#lastRows = lastRows;
    this.#takeStates(parts);
    let row = 0;
    for (const { sequence, index, from, to, wanted } of parts) {
      kv.advance(sequence.slot, to - from);
      const rows: (number | undefined)[] = [];
      lastRows.set(index, rows);
      const result = this.#results[index];
      if (!result || sequence.isAveraged) {
        row += wanted.length;
        continue;
      }
      for (const { place } of wanted) {
        const start = row * numCandidates;
        rows[place] = row;
        result.candidateIds.set(this.#candidateIds.subarray(start, start + numCandidates), place * numCandidates);
        result.candidateLogits.set(this.#logits.subarray(start, start + numCandidates), place * numCandidates);
        const logSumExp = (this.#sums[2 * row] ?? 0) + Math.log(this.#sums[2 * row + 1] ?? 0);
        result.logSumExp[place] = logSumExp;
        result.targetLogProbs[place] = (this.#logits[firstTarget + row] ?? 0) - logSumExp;
        row++;
      }
    }
  }

  #takeStates(parts: readonly CallPart[]): void {
    const width = this.#statesWidth;
    if (width === 0) return;
    const length = parts.reduce((sum, { from, to }) => sum + to - from, 0) * width;
    if (this.#states.length < length) this.#states = new Float32Array(length);
    this.#kernel.readTaps(this.#states.subarray(0, length));
    let at = 0;
    for (const { index, from, to } of parts) {
      const end = at + (to - from) * width;
      this.#results[index]?.states?.set(this.#states.subarray(at, end), from * width);
      at = end;
    }
  }

  /** Returns the results of the step, one for each sequence. */
  end(): readonly StepLogits[] {
    if (this.#channels) putBack(this.#fullLogits.subarray(0, this.#numFullRows * this.#numLogits), this.#channels);
    return this.#results;
  }

  #room(numWanted: number): StepResults {
    const numValues = numWanted * (this.#numCandidates + 1);
    if (this.#logits.length < numValues) {
      this.#candidateIds = new Int32Array(numValues);
      this.#logits = new Float32Array(numValues);
    }
    if (this.#sums.length < 2 * numWanted) this.#sums = new Float64Array(2 * numWanted);
    return {
      candidateIds: this.#candidateIds,
      logits: this.#logits,
      sums: this.#sums,
      fullLogits: this.#fullLogits.subarray(0, this.#numFullRows * this.#numLogits),
    };
  }

  #readRow(sequence: number, place: number): Float32Array | undefined {
    const row = this.#lastRows.get(sequence)?.[place];
    if (row === undefined) return undefined;
    const logits = (this.#readRows[this.#numRead] ??= new Float32Array(this.#numLogits));
    if (!this.#kernel.readLogits(row, logits)) return undefined;
    this.#numRead++;
    return logits;
  }
}
