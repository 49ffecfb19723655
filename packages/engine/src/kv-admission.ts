// Admission to KV memory. Sequences are admitted in order, alternating among clients, while there is memory.
// They wait for one that reads the same beginning, are preempted if sequences before them need more, and begin with
// prefixes from the prefix cache.

import { byPriorityThenArrival, nextAdmitted, nextPreempted, sharedEnd } from "@readme-moe/core";
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
  /** Waiting sequences whose beginning a running one reads, and the end of what they share. */
  readonly #followers = new Map<Sequence, { readonly reader: Sequence; readonly end: number }>();
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

  /** Waiting sequences whose beginning is being read for another one. */
  get followers(): Iterable<Sequence> {
    return this.#followers.keys();
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  enqueue(sequence: Sequence): void {
    const later = this.#waiting.findIndex((other) => byPriorityThenArrival(sequence, other) < 0);
    this.#waiting.splice(later < 0 ? this.#waiting.length : later, 0, sequence);
  }

  /**
   * Admits waiting sequences while there is room, without those that wait for another's chunks. If the next one in turn
   * does not fit, no other overtakes it.
   */
  admit(onAdmitted: (sequence: Sequence) => void): void {
    const { maxNumSeqs, contextTokens } = this.#limits;
    while (this.#waiting.length > 0 && this.#running.size < maxNumSeqs) {
      const free = this.#waiting.filter((one) => !this.#follows(one));
      const sequence = free[nextAdmitted(free, this.#running.values(), maxNumSeqs)];
      if (!sequence) return;
      // Matching comes before admission, so that shared memory is not reserved twice.
      const { prefix, state } = this.#prefixes.find(sequence);
      const slot = this.kv.admit(Math.min(sequence.numTokens + HEADROOM_TOKENS, contextTokens), prefix, state);
      if (!slot) return;
      this.#waiting.splice(this.#waiting.indexOf(sequence), 1);
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

  /** Puts the prompt chunks that a step has completed into the prefix cache. */
  remember({ sequence, numTokens }: BatchItem): void {
    const { slot } = sequence;
    const end = sequence.numComputedTokens;
    const { chunkTokens } = this.#prefixes;
    if (!slot) return;
    // The first chunk may begin with pages of a pinned prompt.
    const first = Math.floor((end - numTokens) / chunkTokens);
    const most = Math.floor(Math.min(end, sequence.promptTokens) / chunkTokens);
    for (let index = first; index < most; index++) this.#prefixes.add(sequence, index, slot);
    if (end >= sequence.promptTokens) sequence.takeOnPrefilled()?.(sequence, slot);
    if (end < sequence.promptTokens || sequence.isPooled) return;
    const { tokenIds, experts, cacheSalt } = sequence;
    // The same prompt runs its last token again, since that gives logits. It is not worth a file.
    if (end === sequence.promptTokens && this.kv.states.stateBytes > 0)
      this.#prefixes.addEnd({ tokenIds, experts, cacheSalt }, slot, end - 1);
  }

  /** Caches what a sequence that ends has computed, its answer too, if that is of use to a later prompt. */
  rememberEnd(sequence: Sequence): void {
    const { slot, isPooled } = sequence;
    if (slot && !isPooled) this.#prefixes.addEnd(sequence, slot, slot.numTokens);
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
    this.#followers.delete(sequence);
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

  /** Tells whether a running sequence is reading the next chunks of a waiting one. */
  #follows(sequence: Sequence): boolean {
    if (!this.#prefixes.isOn) return false;
    const known = this.#followers.get(sequence);
    if (known && this.#running.has(known.reader.id) && known.reader.numComputedTokens < known.end) return true;
    this.#followers.delete(sequence);
    for (const reader of this.#running.values()) {
      const end = sharedEnd(sequence, reader, this.#prefixes.sharedTokens);
      if (end > 0) this.#followers.set(sequence, { reader, end });
      if (end > 0) return true;
    }
    return false;
  }

  #preempt(sequence: Sequence): void {
    this.remove(sequence);
    this.#preemptions++;
    this.enqueue(sequence);
  }
}
