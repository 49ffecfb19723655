// Runs of a draft model with what they cost, and its keys and values by sequence.

import { type CostModel, predictStepMs, refineCostModel } from "@readme-moe/core";
import { KV_PAGE_TOKENS, type KvMemory, type KvSlot } from "@readme-moe/kernel";
import type { StepRunner } from "../step-runner.ts";
import { FEW_TOKENS } from "./draft-model-plan.ts";

/** Tokens of a sequence that run after those in its memory. */
interface DraftModelRow {
  readonly cached: CachedSequence;
  readonly tokenIds: readonly number[];
  /** Whether the token that follows is wanted. */
  readonly isWanted: boolean;
}

/** The token that a draft model gives the highest probability, the lowest id among equals. */
interface BestToken {
  readonly tokenId: number;
  readonly probability: number;
}

/** Runs a draft model and measures it. */
export class DraftModelRuns {
  readonly #runner: StepRunner;
  readonly #kv: KvMemory;
  readonly #now: () => number;
  #cost: CostModel;
  /** Mean number of earlier tokens of a row of the last measured run. */
  #pastTokens = 0;
  #spentMs = 0;

  constructor(
    runner: StepRunner,
    kv: KvMemory,
    { cost, now }: { readonly cost: CostModel; readonly now: () => number },
  ) {
    this.#runner = runner;
    this.#kv = kv;
    this.#cost = cost;
    this.#now = now;
  }

  /** Time of all runs so far. */
  get spentMs(): number {
    return this.#spentMs;
  }

  /** Predicts the time of a run that gives each of `numRows` sequences one token. */
  msPerRun(numRows: number): number {
    const cachedTokens = this.#pastTokens * numRows;
    return predictStepMs(this.#cost, { tokens: numRows, distinctExperts: 1, cachedTokens, missingBytes: 0 });
  }

  /** Runs tokens and appends them to their sequences. @returns the best next tokens, where they are wanted */
  async run(rows: readonly DraftModelRow[]): Promise<readonly (BestToken | undefined)[]> {
    if (rows.length === 0) return [];
    const startMs = this.#now();
    const results = await this.#runner.forward(
      this.#kv,
      rows.map(({ cached: { slot }, tokenIds, isWanted }) => ({
        slot,
        tokenIds,
        experts: new Uint16Array(tokenIds.length),
        logitsOf: isWanted ? [tokenIds.length - 1] : [],
      })),
    );
    this.#measure(rows, this.#now() - startMs);
    for (const { cached, tokenIds } of rows) for (const tokenId of tokenIds) cached.tokenIds.push(tokenId);
    return results.map(({ candidateIds, candidateLogits, logSumExp }) => {
      const [tokenId] = candidateIds;
      if (tokenId === undefined) return undefined;
      return { tokenId, probability: Math.exp((candidateLogits[0] ?? NaN) - (logSumExp[0] ?? NaN)) };
    });
  }

  #measure(rows: readonly DraftModelRow[], durationMs: number): void {
    this.#spentMs += durationMs;
    // Tokens of a prompt take less time each than tokens of many sequences.
    if (rows.some(({ tokenIds }) => tokenIds.length > FEW_TOKENS)) return;
    const tokens = rows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const cachedTokens = rows.reduce((sum, { cached }) => sum + cached.tokenIds.length, 0);
    this.#pastTokens = cachedTokens / rows.length;
    const work = { tokens, distinctExperts: 1, cachedTokens, missingBytes: 0 };
    this.#cost = refineCostModel(this.#cost, { work, durationMs });
  }
}

/** Tokens of a sequence whose keys and values are in memory. */
export interface CachedSequence {
  readonly id: string;
  readonly slot: KvSlot;
  /** The tokens in `slot`, `[slot.numTokens]`. */
  readonly tokenIds: number[];
}

/** A sequence for which memory is asked. */
export interface WantedSequence {
  readonly id: string;
  readonly tokenIds: readonly number[];
  /** Number of first tokens that may be kept from earlier runs; at most `tokenIds.length`. */
  readonly reusableTokens: number;
  /** Number of tokens to reserve, at least one. */
  readonly roomTokens: number;
}

/** Keys and values of as many sequences as fit; those that were used least recently make room for others. */
export class DraftModelMemory {
  readonly #kv: KvMemory;
  /** Sequences by id, the least recently used first. */
  readonly #sequences = new Map<string, CachedSequence>();

  constructor(kv: KvMemory) {
    this.#kv = kv;
  }

  /** Size of the keys and values of all sequences. */
  get bytes(): number {
    return this.#kv.usedTokens * this.#kv.bytesPerToken;
  }

  /**
   * Rewinds each sequence to the tokens that it shares with its earlier ones, and reserves room. Sequences of the same
   * call do not displace one another, and those that are in memory come first.
   *
   * @param wanted - sequences with different ids
   * @returns the sequences, `undefined` where there is no room
   */
  hold(wanted: readonly WantedSequence[]): readonly (CachedSequence | undefined)[] {
    const members = new Set(wanted.map(({ id }) => id));
    const held = wanted.map((one) => (this.#sequences.has(one.id) ? this.#holdOne(one, members) : undefined));
    return wanted.map((one, index) => held[index] ?? this.#holdOne(one, members));
  }

  /** Whether a sequence that was held still is. */
  isHeld(sequence: CachedSequence): boolean {
    return this.#sequences.get(sequence.id) === sequence;
  }

  /** Frees a sequence's memory. Does nothing for an unknown one. */
  release(id: string): void {
    const sequence = this.#sequences.get(id);
    if (!sequence) return;
    this.#sequences.delete(id);
    this.#kv.release(sequence.slot);
  }

  /** Frees the memory of all sequences. */
  releaseAll(): void {
    for (const id of Array.from(this.#sequences.keys())) this.release(id);
  }

  #holdOne(wanted: WantedSequence, members: ReadonlySet<string>): CachedSequence | undefined {
    const { id, roomTokens } = wanted;
    const known = this.#sequences.get(id);
    if (!known) {
      const slot = this.#withRoom(wanted, members, () => this.#kv.admit(roomTokens));
      return slot && this.#use({ id, slot, tokenIds: [] });
    }
    const numShared = sharedTokens(known.tokenIds, wanted);
    known.tokenIds.length = numShared;
    this.#kv.truncate(known.slot, numShared);
    const hasRoom = this.#withRoom(wanted, members, () => this.#kv.reserve(known.slot, roomTokens) || undefined);
    if (hasRoom) return this.#use(known);
    // Memory that a sequence cannot draft with is of more use to others.
    this.release(id);
    return undefined;
  }

  #use(sequence: CachedSequence): CachedSequence {
    this.#sequences.delete(sequence.id);
    this.#sequences.set(sequence.id, sequence);
    return sequence;
  }

  /** Attempts to get room for a member; drops the oldest sequences one by one if that gives enough room. */
  #withRoom<Result>(
    { id, roomTokens }: WantedSequence,
    members: ReadonlySet<string>,
    attempt: () => Result | undefined,
  ): Result | undefined {
    const result = attempt();
    if (result !== undefined) return result;
    const others = Array.from(this.#sequences.values()).filter((other) => other.id !== id);
    const kept = others.filter((other) => members.has(other.id));
    const keptTokens = kept.reduce((sum, { slot }) => sum + slot.reservedTokens, 0);
    const neededTokens = Math.ceil(roomTokens / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
    if (keptTokens + neededTokens > this.#kv.capacityTokens) return undefined;
    for (const other of others) {
      if (members.has(other.id)) continue;
      this.release(other.id);
      const next = attempt();
      if (next !== undefined) return next;
    }
    return undefined;
  }
}

function sharedTokens(cached: readonly number[], { tokenIds, reusableTokens }: WantedSequence): number {
  const most = Math.min(cached.length, reusableTokens);
  let shared = 0;
  while (shared < most && cached[shared] === tokenIds[shared]) shared++;
  return shared;
}
