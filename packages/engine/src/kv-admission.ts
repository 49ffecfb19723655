// Who holds KV memory: sequences are admitted in order while there is room, clients by turns, make room for those before
// them, and begin with what the prefix cache knows.

import { byPriorityThenArrival, nextAdmitted, nextPreempted } from "@readme-moe/core";
import type { BatchItem } from "./batch.ts";
import type { KvMemory } from "@readme-moe/kernel";
import type { PrefixCache } from "./prefix-cache.ts";
import type { Sequence } from "./sequence.ts";

// A sequence that was just let in should not have to grow, or to give way, right after.
const HEADROOM_TOKENS = 64;

export class KvAdmission {
  readonly kv: KvMemory;
  readonly #prefixes: PrefixCache;
  readonly #maxNumSeqs: number;
  readonly #maxTokens: number;
  readonly #waiting: Sequence[] = [];
  readonly #running = new Map<string, Sequence>();
  #preemptions = 0;

  /** @param maxTokens - that one sequence can have: the model's context, or less where the pool is smaller */
  constructor(
    kv: KvMemory,
    prefixes: PrefixCache,
    limits: { readonly maxNumSeqs: number; readonly maxTokens: number },
  ) {
    this.kv = kv;
    this.#prefixes = prefixes;
    this.#maxNumSeqs = limits.maxNumSeqs;
    this.#maxTokens = limits.maxTokens;
  }

  get running(): ReadonlyMap<string, Sequence> {
    return this.#running;
  }

  /** In the order in which they will be admitted. */
  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  enqueue(sequence: Sequence): void {
    const later = this.#waiting.findIndex((other) => byPriorityThenArrival(sequence, other) < 0);
    this.#waiting.splice(later < 0 ? this.#waiting.length : later, 0, sequence);
  }

  /** Lets in whom there is room for; nobody overtakes a sequence whose turn it is and that waits for more room. */
  admit(onAdmitted: (sequence: Sequence) => void): void {
    while (this.#waiting.length > 0 && this.#running.size < this.#maxNumSeqs) {
      const next = nextAdmitted(this.#waiting, this.#running.values(), this.#maxNumSeqs);
      const sequence = this.#waiting[next];
      if (!sequence) return;
      // Before admission, so that memory which is shared is not taken twice.
      const known = this.#prefixes.match(sequence);
      const slot = this.kv.admit(Math.min(sequence.numTokens + HEADROOM_TOKENS, this.#maxTokens), known);
      if (!slot) return;
      this.#waiting.splice(next, 1);
      sequence.slot = slot;
      this.#running.set(sequence.id, sequence);
      if (sequence.startedMs === undefined) sequence.cachedTokens = slot.numTokens;
      onAdmitted(sequence);
    }
  }

  /**
   * Makes room for a step's new tokens, in the order of who goes first; where there is none, the last ones give way.
   * @returns the items that can run
   */
  reserve(batch: readonly BatchItem[], onPreempted: (sequence: Sequence) => void): readonly BatchItem[] {
    const ready: BatchItem[] = [];
    for (const item of batch.toSorted((a, b) => byPriorityThenArrival(a.sequence, b.sequence))) {
      while (item.sequence.slot) {
        const end = item.sequence.numComputedTokens + item.numTokens;
        if (this.kv.reserve(item.sequence.slot, end)) {
          ready.push(item);
          break;
        }
        const last = nextPreempted(this.#running.values());
        this.#preempt(last);
        onPreempted(last);
      }
    }
    return ready.filter((item) => item.sequence.slot !== undefined);
  }

  /** Keeps a prompt's chunks that a step has completed, for others that begin alike. */
  remember({ sequence, numTokens }: BatchItem): void {
    const { slot } = sequence;
    const end = sequence.numComputedTokens;
    const { chunkTokens } = this.#prefixes;
    if (!slot || end % chunkTokens !== 0 || end > sequence.promptTokens || numTokens !== chunkTokens) return;
    this.#prefixes.add(sequence, end / chunkTokens - 1, slot);
  }

  /** Takes a sequence out, wherever it is. */
  remove(sequence: Sequence): void {
    if (sequence.slot) this.kv.release(sequence.slot);
    sequence.slot = undefined;
    this.#running.delete(sequence.id);
    const place = this.#waiting.indexOf(sequence);
    if (place >= 0) this.#waiting.splice(place, 1);
  }

  /** @throws {Error} with the numbers, when the books are wrong */
  checkIntegrity(): void {
    this.kv.checkIntegrity();
    for (const sequence of this.#running.values()) {
      if (!sequence.slot) throw new Error(`The sequence ${sequence.id} runs without KV memory`);
      if (sequence.numComputedTokens > sequence.numTokens) {
        const message = `${sequence.numComputedTokens} of ${sequence.numTokens} tokens are computed`;
        throw new Error(`The sequence ${sequence.id} is ahead of itself: ${message}`);
      }
    }
    for (const sequence of this.#waiting) {
      if (sequence.slot) throw new Error(`The sequence ${sequence.id} waits and holds KV memory`);
    }
  }

  #preempt(sequence: Sequence): void {
    this.remove(sequence);
    this.#preemptions++;
    this.enqueue(sequence);
  }
}
