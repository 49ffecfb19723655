// Which sequences hold KV memory. Sequences are admitted in order, alternating among clients, while there is memory.
// They are preempted if sequences before them need more, and begin with prefixes from the prefix cache.

import { byPriorityThenArrival, nextAdmitted, nextPreempted } from "@readme-moe/core";
import type { KvMemory } from "@readme-moe/kernel";
import type { BatchItem } from "./batch.ts";
import type { PrefixCache } from "./prefix-cache.ts";
import type { Sequence } from "./sequence.ts";

// An admitted sequence should not need more memory, or be preempted, right after its admission.
const HEADROOM_TOKENS = 64;

/** Limits of a `KvAdmission`. */
export interface AdmissionLimits {
  /** Largest number of sequences that hold memory. */
  readonly maxNumSeqs: number;
  /** Largest number of tokens of one sequence: the model's context, or less if the pool is smaller. */
  readonly contextTokens: number;
}

export class KvAdmission {
  readonly kv: KvMemory;
  readonly #prefixes: PrefixCache;
  readonly #limits: AdmissionLimits;
  readonly #waiting: Sequence[] = [];
  readonly #running = new Map<string, Sequence>();
  #preemptions = 0;

  constructor(kv: KvMemory, prefixes: PrefixCache, limits: AdmissionLimits) {
    this.kv = kv;
    this.#prefixes = prefixes;
    this.#limits = limits;
  }

  /** Sequences that hold KV memory, by id. */
  get running(): ReadonlyMap<string, Sequence> {
    return this.#running;
  }

  /** Sequences that wait for KV memory, in order of priority, then of arrival. */
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

  /** Admits waiting sequences while there is room. If the next one in turn does not fit, no other overtakes it. */
  admit(onAdmitted: (sequence: Sequence) => void): void {
    const { maxNumSeqs, contextTokens } = this.#limits;
    while (this.#waiting.length > 0 && this.#running.size < maxNumSeqs) {
      const next = nextAdmitted(this.#waiting, this.#running.values(), maxNumSeqs);
      const sequence = this.#waiting[next];
      if (!sequence) return;
      // Matching comes before admission, so that shared memory is not reserved twice.
      const prefix = this.#prefixes.match(sequence);
      const slot = this.kv.admit(Math.min(sequence.numTokens + HEADROOM_TOKENS, contextTokens), prefix);
      if (!slot) return;
      this.#waiting.splice(next, 1);
      sequence.slot = slot;
      this.#running.set(sequence.id, sequence);
      if (sequence.startedMs === undefined) sequence.cachedTokens = Math.min(slot.numTokens, sequence.promptTokens);
      onAdmitted(sequence);
    }
  }

  /**
   * Reserves memory for a step's new tokens, in order of priority and arrival. If there is none, the last sequences
   * are preempted.
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

  /** Puts a prompt chunk that a step has completed into the prefix cache. */
  remember({ sequence, numTokens }: BatchItem): void {
    const { slot } = sequence;
    const end = sequence.numComputedTokens;
    const { chunkTokens } = this.#prefixes;
    if (!slot || end % chunkTokens !== 0 || end > sequence.promptTokens || numTokens !== chunkTokens) return;
    this.#prefixes.add(sequence, end / chunkTokens - 1, slot);
  }

  /** Drops cached prefixes with tokens of an expert. */
  forgetExpert(expert: number): void {
    this.#prefixes.forget(expert);
  }

  /** Removes a sequence, waiting or running. */
  remove(sequence: Sequence): void {
    if (sequence.slot) this.kv.release(sequence.slot);
    sequence.slot = undefined;
    this.#running.delete(sequence.id);
    const place = this.#waiting.indexOf(sequence);
    if (place >= 0) this.#waiting.splice(place, 1);
  }

  /** Checks the accounting. @throws {Error} with the numbers that do not agree */
  checkIntegrity(): void {
    this.kv.checkIntegrity();
    for (const sequence of this.#running.values()) {
      if (!sequence.slot) throw new Error(`The sequence ${sequence.id} runs without KV memory`);
      if (sequence.numComputedTokens > sequence.numTokens) {
        const counts = `${sequence.numComputedTokens} of ${sequence.numTokens} tokens`;
        throw new Error(`The sequence ${sequence.id} has computed ${counts}`);
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
