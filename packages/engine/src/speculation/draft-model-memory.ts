// The keys and values of a draft model, by sequence.

import { KV_PAGE_TOKENS, type KvMemory, type KvSlot } from "@readme-moe/kernel";

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
