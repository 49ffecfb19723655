// Schedulers, and the code that they share. A scheduler is a pure function over plain data, which is known before the
// step runs: lengths, arrival, and the experts of the next tokens.

import { type CostModel, predictStepMs } from "./cost-model.ts";

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

// Fair shares of an engine's memory and time among clients. If no sequence names a client, nothing changes.

/** The owner of a sequence. All sequences without a client count as one client's. */
export interface Owned {
  readonly client?: string | undefined;
}

/** Milliseconds of steps charged to each client that had ready sequences in the last step. */
export type ClientTimes = ReadonlyMap<string | undefined, number>;

/** Client times before any step. */
export const NO_TIMES: ClientTimes = new Map();

/** Share of the engine's places that one named client may hold. */
const PLACE_SHARE = 7 / 8;

/**
 * Chooses the sequence that is admitted next: of the highest waiting priority, the first sequence of the client that
 * holds the fewest places, without clients that hold as many as they may.
 *
 * @param waiting - in order of priority, then of arrival
 * @param running - sequences that hold places
 * @returns an index into `waiting`, or -1 if the client of each waiting sequence holds all its places
 */
export function nextAdmitted(
  waiting: readonly (Owned & Pick<SchedulableSequence, "priority">)[],
  running: Iterable<Owned>,
  maxNumSeqs: number,
): number {
  const places = sumByClient(running, () => 1);
  let best = -1;
  for (const [index, { client, priority }] of waiting.entries()) {
    const chosen = waiting[best];
    if (chosen && priority < chosen.priority) break;
    const own = places.get(client) ?? 0;
    if (own >= (client === undefined ? maxNumSeqs : Math.ceil(maxNumSeqs * PLACE_SHARE))) continue;
    if (!chosen || own < (places.get(chosen.client) ?? 0)) best = index;
  }
  return best;
}

/**
 * Chooses the sequence that is preempted when memory is full: of the lowest priority, the last arrival of the client
 * with the most tokens.
 *
 * @throws {RangeError} if nothing runs
 */
export function nextPreempted<Sequence extends Owned & SchedulableSequence>(running: Iterable<Sequence>): Sequence {
  const all = Array.from(running);
  const lowest = Math.min(...all.map(({ priority }) => priority));
  const tokens = sumByClient(all, ({ numTokens }) => numTokens);
  const tokensOf = ({ client }: Sequence): number => tokens.get(client) ?? 0;
  const [first] = all
    .filter(({ priority }) => priority === lowest)
    .toSorted((a, b) => tokensOf(b) - tokensOf(a) || byPriorityThenArrival(b, a));
  if (first) return first;
  throw new RangeError("Expected a running sequence to preempt, got none");
}

/**
 * Selects the sequences that may be in the next step: those of clients whose time is close to the least time of any
 * ready client. A client with few sequences is therefore slowed by the number of clients, not by how many sequences
 * the others have.
 *
 * @param cost - a client may be ahead by the time of a step of one token, so that clients with equal needs share steps
 */
export function fairlyRunnable<Sequence extends Owned>(
  sequences: readonly Sequence[],
  times: ClientTimes,
  cost: CostModel,
): readonly Sequence[] {
  const clients = new Set(sequences.map(({ client }) => client));
  if (clients.size < 2) return sequences;
  const least = leastOf(clients, times);
  const mostMs = least + predictStepMs(cost, { tokens: 1, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
  return sequences.filter(({ client }) => (times.get(client) ?? least) <= mostMs);
}

/**
 * Charges each client in a step the time that its part would have taken alone.
 *
 * @param ready - all sequences that could have run; a new client begins with the least time of the others
 * @param batch - the sequences that run
 */
export function chargeClients(
  times: ClientTimes,
  ready: readonly Owned[],
  batch: readonly { readonly sequence: Owned & SchedulableSequence; readonly numTokens: number }[],
  cost: CostModel,
): ClientTimes {
  const clients = new Set(ready.map(({ client }) => client));
  if (clients.size < 2) return NO_TIMES;
  const least = leastOf(clients, times);
  return new Map(
    Array.from(clients, (client) => {
      const own = batch.filter(({ sequence }) => sequence.client === client);
      // Only differences matter, so subtracting the least keeps the sums small.
      const before = (times.get(client) ?? least) - least;
      return [client, own.length === 0 ? before : before + aloneMs(own, cost)] as const;
    }),
  );
}

function aloneMs(
  items: readonly { readonly sequence: SchedulableSequence; readonly numTokens: number }[],
  cost: CostModel,
): number {
  const experts = new Set(items.flatMap(({ sequence, numTokens }) => firstOf(sequence.nextExperts, numTokens)));
  return predictStepMs(cost, {
    tokens: items.reduce((sum, { numTokens }) => sum + numTokens, 0),
    distinctExperts: experts.size,
    cachedTokens: items.reduce((sum, { sequence }) => sum + sequence.numComputedTokens, 0),
    missingBytes: 0,
  });
}

/** Finds the least time of the clients that have one; 0 if none has. */
function leastOf(clients: Iterable<string | undefined>, times: ClientTimes): number {
  const known = Array.from(clients, (client) => times.get(client)).filter((time) => time !== undefined);
  return known.length === 0 ? 0 : Math.min(...known);
}

function sumByClient<One extends Owned>(
  all: Iterable<One>,
  amount: (one: One) => number,
): Map<string | undefined, number> {
  const sums = new Map<string | undefined, number>();
  for (const one of all) sums.set(one.client, (sums.get(one.client) ?? 0) + amount(one));
  return sums;
}

// Prompts with one beginning that arrive together: one sequence reads it, and the others wait for its chunks.

/** A sequence's prompt, of which a part may be read. */
export interface PartlyRead extends Owned {
  readonly priority: number;
  /** Sequences of one salt share what is cached, and so do those without any. */
  readonly cacheSalt?: string | undefined;
  /** Known tokens, those of the prompt first. */
  readonly tokenIds: readonly number[];
  /** Expert of each token. */
  readonly experts: readonly number[];
  readonly promptTokens: number;
  readonly numComputedTokens: number;
}

/**
 * Finds the end of the chunks that a waiting sequence may leave to one that is reading its prompt: they are the same,
 * not computed yet, and will be cached. The reader is of the same client and no lower priority, so that whoever waits
 * loses no turn of its own.
 *
 * @returns a number of tokens; 0 if there is nothing to wait for
 */
export function sharedEnd(waiting: PartlyRead, reader: PartlyRead, chunkTokens: number): number {
  const { promptTokens, numComputedTokens } = reader;
  if (numComputedTokens >= promptTokens || reader.priority < waiting.priority) return 0;
  if (reader.client !== waiting.client || reader.cacheSalt !== waiting.cacheSalt) return 0;
  // The last known token is computed in any case.
  const most = Math.min(promptTokens, waiting.tokenIds.length - 1);
  const first = Math.floor(numComputedTokens / chunkTokens) * chunkTokens;
  const isSame = (from: number): boolean => isSameChunk(waiting, reader, from, from + chunkTokens);
  // Most prompts differ there, so that the chunks before need not be compared.
  if (first + chunkTokens > most || !isSame(first)) return 0;
  for (let from = 0; from < first; from += chunkTokens) if (!isSame(from)) return 0;
  let end = first + chunkTokens;
  while (end + chunkTokens <= most && isSame(end)) end += chunkTokens;
  return end;
}

function isSameChunk(a: PartlyRead, b: PartlyRead, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    if (a.tokenIds[at] !== b.tokenIds[at] || a.experts[at] !== b.experts[at]) return false;
  }
  return true;
}
