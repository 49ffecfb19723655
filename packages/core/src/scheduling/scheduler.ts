// Schedulers, and the code that they share. A scheduler is a pure function over plain data, which is known before the
// step runs: lengths, arrival, and the experts of the next tokens.

import type { CostModel } from "./cost-model.ts";

/** A sequence as a scheduler sees it. */
export interface SchedulableSequence {
  readonly id: string;
  /** Order of arrival; unique. */
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  /** Number of known tokens: the prompt and the tokens generated so far. */
  readonly numTokens: number;
  /** Number of known tokens whose keys and values are in the KV cache; fewer than `numTokens`. */
  readonly numComputedTokens: number;
  /** Number of tokens generated so far. */
  readonly completionTokens: number;
  /** Experts of the tokens that are not computed yet, `[numTokens - numComputedTokens]`. */
  readonly nextExperts: ArrayLike<number>;
  /** Time since which the sequence is ready and not in a step: the end of its last step, or its admission. */
  readonly waitingSinceMs: number;
}

/** Input of a scheduler. Plain data that a scheduler does not change. */
export interface SchedulerState {
  /** Sequences that hold KV memory and are ready to run, in no particular order. */
  readonly sequences: readonly SchedulableSequence[];
  readonly nowMs: number;
  readonly limits: SchedulerLimits;
  /** Coefficients of a step's predicted time. */
  readonly cost: CostModel;
  /** Bytes of each expert that are not in memory, by expert; experts beyond the end are in memory. */
  readonly missingBytes: ArrayLike<number>;
}

/** Limits of a step. */
export interface SchedulerLimits {
  /** Largest number of sequences in one step. */
  readonly maxNumBatchedSeqs: number;
  /** Largest number of tokens in one step. */
  readonly maxNumBatchedTokens: number;
  /** Prefill runs in chunks that end at multiples of this, whatever else is in the step. */
  readonly chunkTokens: number;
}

/** One sequence's part in a step. */
export interface ScheduledSequence {
  readonly id: string;
  /** Number of tokens that run in the step: `nextChunkTokens` of the sequence. */
  readonly numTokens: number;
}

/**
 * Decides one step.
 *
 * Called once before each step, and with expert streaming a second time, to forecast the step after it. Does not
 * change `state`.
 *
 * @returns distinct sequences of the state, each with the tokens of its next chunk, within the limits; at least one if
 *   there are sequences. No chunk alone exceeds `maxNumBatchedTokens`: limits are checked when an engine opens
 */
export type Scheduler = (state: SchedulerState) => readonly ScheduledSequence[];

/**
 * Computes how many tokens a sequence runs next: one if it decodes, otherwise up to the next multiple of
 * `chunkTokens`. Chunks always begin and end at the same positions, so a prompt computed again gives the same bits.
 */
export function nextChunkTokens(
  { numTokens, numComputedTokens }: Pick<SchedulableSequence, "numTokens" | "numComputedTokens">,
  chunkTokens: number,
): number {
  const chunkEnd = (Math.floor(numComputedTokens / chunkTokens) + 1) * chunkTokens;
  return Math.min(numTokens, chunkEnd) - numComputedTokens;
}

/** Orders sequences by priority, highest first, then by arrival. */
export function byPriorityThenArrival(
  a: Pick<SchedulableSequence, "priority" | "arrival">,
  b: Pick<SchedulableSequence, "priority" | "arrival">,
): number {
  return b.priority - a.priority || a.arrival - b.arrival;
}

/** A sequence with the chunk that it would run in the next step. */
export interface Candidate {
  readonly sequence: SchedulableSequence;
  /** Number of tokens of the chunk. */
  readonly numTokens: number;
  /**
   * Whether the sequence has one token to run. A prompt's last token may be alone in its chunk, and costs the same.
   */
  readonly isDecoding: boolean;
}

/** Default of `maxDelayMs`: longest wait of a sequence before it goes first. */
export const DEFAULT_MAX_DELAY_MS = 500;

/** Lists one candidate for each sequence, in order of priority, then of arrival. */
export function chunkCandidates({ sequences, limits }: SchedulerState): readonly Candidate[] {
  return sequences.toSorted(byPriorityThenArrival).map((sequence) => ({
    sequence,
    numTokens: nextChunkTokens(sequence, limits.chunkTokens),
    isDecoding: sequence.numTokens - sequence.numComputedTokens === 1,
  }));
}

/** Lists the experts of a candidate's chunk, one for each token. */
export function chunkExperts({ sequence, numTokens }: Candidate): readonly number[] {
  return firstOf(sequence.nextExperts, numTokens);
}

/** Copies the first `count` entries of a list, or all if it is shorter. */
export function firstOf(experts: ArrayLike<number>, count: number): readonly number[] {
  return Array.from({ length: Math.min(count, experts.length) }, (_, index) => experts[index] ?? 0);
}

/** Groups candidates by priority, the highest priority first. */
export function priorityClasses(candidates: readonly Candidate[]): readonly (readonly Candidate[])[] {
  const priorities = new Set(candidates.map(({ sequence }) => sequence.priority));
  return Array.from(priorities, (priority) => candidates.filter(({ sequence }) => sequence.priority === priority));
}

/**
 * Finds the candidate that has waited longest, of any priority, if that is more than `maxDelayMs`.
 *
 * A scheduler that puts it into the step first bounds every wait by `maxDelayMs` plus one step for each sequence that
 * holds KV memory: the sequences before it in this order have waited longer, and leave the order when they run. Only
 * one candidate goes first: if many are overdue, a step of all of them would need all their experts.
 */
export function longestOverdue(
  candidates: readonly Candidate[],
  nowMs: number,
  maxDelayMs: number,
): Candidate | undefined {
  let longest: Candidate | undefined;
  for (const candidate of candidates) {
    const { waitingSinceMs } = candidate.sequence;
    if (nowMs - waitingSinceMs <= maxDelayMs) continue;
    if (!longest || waitingSinceMs < longest.sequence.waitingSinceMs) longest = candidate;
  }
  return longest;
}

/** A step under construction, within its limits. */
export class StepDraft {
  readonly #chosen = new Set<Candidate>();
  #tokensLeft: number;
  #seqsLeft: number;

  constructor({ maxNumBatchedSeqs, maxNumBatchedTokens }: SchedulerLimits) {
    this.#tokensLeft = maxNumBatchedTokens;
    this.#seqsLeft = maxNumBatchedSeqs;
  }

  get tokensLeft(): number {
    return this.#tokensLeft;
  }

  get seqsLeft(): number {
    return this.#seqsLeft;
  }

  /** The sequences of the step, in the order in which they were added. */
  get scheduled(): readonly ScheduledSequence[] {
    return Array.from(this.#chosen, ({ sequence, numTokens }) => ({ id: sequence.id, numTokens }));
  }

  has(candidate: Candidate): boolean {
    return this.#chosen.has(candidate);
  }

  /** Adds a candidate that is not in the step yet. @returns whether there was room */
  add(candidate: Candidate): boolean {
    if (this.#seqsLeft === 0 || candidate.numTokens > this.#tokensLeft) return false;
    this.#chosen.add(candidate);
    this.#tokensLeft -= candidate.numTokens;
    this.#seqsLeft--;
    return true;
  }
}

/** Options of `fcfs`. */
export interface FcfsOptions {
  /**
   * The share of a step, of its tokens and of its places for sequences, that prefill may take while other sequences
   * decode, in `[0, 1]`. Within it prefill goes first: 0 decodes first and prefills only if no sequence can decode, 1
   * prefills first and decodes in what is left (the two baselines of Read-ME, section 5). Any share above 0 admits at
   * least one chunk. `"by-arrival"`: no share; the earlier arrival goes first, decoding or not.
   * @default "by-arrival"
   */
  readonly prefillShare?: number | "by-arrival" | undefined;
  /** Longest wait in ms, after which a sequence goes first. @default Infinity */
  readonly maxDelayMs?: number | undefined;
}

/**
 * Schedules first come, first served: sequences in order of priority, then of arrival, as many as fit. A chunk that
 * does not fit is left for the next step, and later ones may go ahead of it.
 */
export function fcfs({ prefillShare = "by-arrival", maxDelayMs = Infinity }: FcfsOptions = {}): Scheduler {
  return (state) => {
    const { limits, nowMs } = state;
    const candidates = chunkCandidates(state);
    const draft = new StepDraft(limits);
    const overdue = longestOverdue(candidates, nowMs, maxDelayMs);
    if (overdue) draft.add(overdue);
    const share = candidates.some(({ isDecoding }) => isDecoding) ? prefillShare : "by-arrival";
    if (share === "by-arrival") {
      for (const candidate of candidates) if (candidate !== overdue) draft.add(candidate);
      return draft.scheduled;
    }
    let prefillSeqsLeft = Math.ceil(share * limits.maxNumBatchedSeqs);
    let prefillTokensLeft = share * limits.maxNumBatchedTokens;
    let hasPrefill = false;
    for (const candidate of candidates.toSorted(prefillFirst)) {
      if (candidate === overdue) continue;
      const { isDecoding, numTokens } = candidate;
      if (isDecoding) {
        draft.add(candidate);
        continue;
      }
      const isWithinShare = prefillSeqsLeft > 0 && (numTokens <= prefillTokensLeft || !hasPrefill);
      if (!isWithinShare || !draft.add(candidate)) continue;
      hasPrefill = true;
      prefillSeqsLeft--;
      prefillTokensLeft -= numTokens;
    }
    return draft.scheduled;
  };
}

/** Orders by priority, then prefill before decoding; the sort is stable, so arrival decides the rest. */
function prefillFirst(a: Candidate, b: Candidate): number {
  return b.sequence.priority - a.sequence.priority || Number(a.isDecoding) - Number(b.isDecoding);
}
