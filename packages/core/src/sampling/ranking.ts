// Tokens in falling order of their logits: the best ones by a heap, or the chosen one of all by buckets of weight.

import { allowsToken, weightOf, type BoundRow } from "./logits.ts";

/** The first tokens in falling order of their logits; among equals the lower id first. */
export interface RankedLogits {
  readonly ids: Int32Array;
  readonly logits: Float32Array;
  /** Whether every other token's logit is `-Infinity`. */
  readonly isComplete: boolean;
}

/** Keeps a row's candidates that may be chosen. @param numLeft - number of all tokens that may be */
export function rankedCandidates(row: BoundRow, masked: ReadonlySet<number>, numLeft: number): RankedLogits {
  const { candidateIds, candidateLogits, mask } = row;
  const isKept = (_: number, index: number): boolean => {
    const id = candidateIds[index] ?? -1;
    return (!mask || allowsToken(mask, id)) && !masked.has(id) && candidateLogits[index] !== -Infinity;
  };
  const isWhole = !mask && masked.size === 0;
  const ids = isWhole ? candidateIds : candidateIds.filter(isKept);
  const logits = isWhole ? candidateLogits : candidateLogits.filter(isKept);
  return { ids, logits, isComplete: ids.length >= numLeft || candidateLogits.at(-1) === -Infinity };
}

/**
 * Finds the `count` best of all tokens, without those at `-Infinity`.
 *
 * Makes one pass with a heap of the best so far, whose root is the worst of them. Nearly every logit costs one
 * comparison, and only the result is sorted.
 */
export function bestLogits(logits: Float32Array, count: number): RankedLogits {
  const heap = new WorstFirstHeap(Math.min(count, logits.length));
  let entry = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    // A token equal to the worst has the higher id, so it ranks after it.
    if (logit > entry) entry = heap.add(id, logit);
  }
  const isComplete = !heap.isFull || count >= logits.length;
  return { ...heap.toRanked(), isComplete };
}

/** Finds the id of the largest logit, the lowest id among equals; `undefined` if all are `-Infinity`. */
export function bestId(logits: Float32Array): number | undefined {
  let best: number | undefined;
  let most = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    if (logit > most) {
      most = logit;
      best = id;
    }
  }
  return best;
}

/** A binary heap of bounded size that drops its worst entry for a better one. */
class WorstFirstHeap {
  readonly #ids: Int32Array;
  readonly #logits: Float32Array;
  #size = 0;

  constructor(capacity: number) {
    this.#ids = new Int32Array(capacity);
    this.#logits = new Float32Array(capacity);
  }

  get isFull(): boolean {
    return this.#size === this.#ids.length;
  }

  /** Adds an entry. @returns the logit that a later entry must exceed to be among the best */
  add(id: number, logit: number): number {
    if (this.isFull) this.#sink(0, id, logit, this.#size);
    else this.#rise(this.#size++, id, logit);
    return this.isFull ? this.#logitAt(0) : -Infinity;
  }

  /** Empties the heap into its own arrays, best first. */
  toRanked(): Pick<RankedLogits, "ids" | "logits"> {
    const size = this.#size;
    for (let end = size - 1; end > 0; end--) {
      const [id, logit] = [this.#idAt(end), this.#logitAt(end)];
      this.#put(end, this.#idAt(0), this.#logitAt(0));
      this.#sink(0, id, logit, end);
    }
    this.#size = 0;
    return { ids: this.#ids.subarray(0, size), logits: this.#logits.subarray(0, size) };
  }

  #rise(from: number, id: number, logit: number): void {
    let hole = from;
    while (hole > 0) {
      const parent = (hole - 1) >> 1;
      if (!this.#isBetter(parent, id, logit)) break;
      this.#put(hole, this.#idAt(parent), this.#logitAt(parent));
      hole = parent;
    }
    this.#put(hole, id, logit);
  }

  #sink(from: number, id: number, logit: number, size: number): void {
    let hole = from;
    for (let child = 2 * hole + 1; child < size; child = 2 * hole + 1) {
      const right = child + 1;
      if (right < size && this.#isBetter(child, this.#idAt(right), this.#logitAt(right))) child = right;
      if (this.#isBetter(child, id, logit)) break;
      this.#put(hole, this.#idAt(child), this.#logitAt(child));
      hole = child;
    }
    this.#put(hole, id, logit);
  }

  #put(at: number, id: number, logit: number): void {
    this.#ids[at] = id;
    this.#logits[at] = logit;
  }

  #isBetter(at: number, id: number, logit: number): boolean {
    const other = this.#logitAt(at);
    return other > logit || (other === logit && this.#idAt(at) < id);
  }

  #idAt(at: number): number {
    return this.#ids[at] as number;
  }

  #logitAt(at: number): number {
    return this.#logits[at] as number;
  }
}

const BUCKETS_PER_NAT = 64;
const NUM_BUCKETS = 64 * BUCKETS_PER_NAT;
/** Holds every token more than 64 nats below the best one; together they weigh less than one part in 1e22. */
const LAST_BUCKET = NUM_BUCKETS - 1;
const LARGEST_WEIGHTS = Float64Array.from({ length: NUM_BUCKETS }, (_, bucket) => Math.exp(-bucket / BUCKETS_PER_NAT));

/** A token, and the cumulative weight of all tokens up to and including it in falling order. */
interface Reached {
  readonly id: number;
  readonly sum: number;
}

type Reaches = (sum: number, least: number) => boolean;

const isAtLeast: Reaches = (sum, least) => sum >= least;
const isAbove: Reaches = (sum, least) => sum > least;

/**
 * All tokens in falling order, without sorting all of them: tokens are divided into buckets of nearly equal weight,
 * and only the buckets in which a sum ends are sorted.
 */
export class WeightBuckets {
  readonly #logits: Float32Array;
  readonly #best: number;
  readonly #temperature: number;
  readonly #buckets: Uint16Array;
  /** Total weight of each bucket. */
  readonly #weights: Float64Array;
  readonly #total: number;

  /** @param best - the largest of `logits`, finite */
  constructor(logits: Float32Array, best: number, temperature: number) {
    this.#logits = logits;
    this.#best = best;
    this.#temperature = temperature;
    this.#buckets = new Uint16Array(logits.length);
    this.#weights = new Float64Array(NUM_BUCKETS);
    this.#fill();
    let total = 0;
    for (const weight of this.#weights) total += weight;
    this.#total = total;
  }

  /**
   * Chooses the token that `u`, in [0, 1), falls on among the fewest heaviest tokens that reach `topP` of the total.
   */
  choose(topP: number, u: number): number {
    const kept = topP === 1 ? this.#total : this.#first(topP * this.#total, isAtLeast).sum;
    return this.#first(u * kept, isAbove).id;
  }

  /** Finds the first token whose sum reaches `least`; the last token of any weight if rounding prevents that. */
  #first(least: number, reaches: Reaches): Reached {
    let [before, last, beforeLast] = [0, 0, 0];
    for (let bucket = 0; bucket < NUM_BUCKETS; bucket++) {
      const weight = this.#weights[bucket] ?? 0;
      if (weight === 0) continue;
      if (reaches(before + weight, least)) return this.#firstInBucket(bucket, before, least, reaches);
      last = bucket;
      beforeLast = before;
      before += weight;
    }
    return this.#firstInBucket(last, beforeLast, least, reaches);
  }

  #firstInBucket(bucket: number, before: number, least: number, reaches: Reaches): Reached {
    const ids = this.#idsIn(bucket);
    const logits = Float32Array.from(ids, (id) => this.#logits[id] ?? -Infinity);
    const ranked = bestLogits(logits, logits.length);
    // Summing one by one must not pass the bucket's end, or top-p could admit a token of the next bucket.
    const end = before + (this.#weights[bucket] ?? 0);
    let reached: Reached = { id: -1, sum: before };
    for (const [place, index] of ranked.ids.entries()) {
      const weight = weightOf(ranked.logits[place] ?? -Infinity, this.#best, this.#temperature);
      if (weight === 0) break;
      reached = { id: ids[index] ?? -1, sum: Math.min(reached.sum + weight, end) };
      if (reaches(reached.sum, least)) break;
    }
    return reached;
  }

  /**
   * Puts every token into its bucket and adds its weight to the bucket's. A weight is the bucket's largest weight
   * times a polynomial, within 1e-11 of `weightOf`: an exponential for each token took twice as long as this whole
   * pass.
   */
  #fill(): void {
    const [logits, buckets, weights] = [this.#logits, this.#buckets, this.#weights];
    const scale = BUCKETS_PER_NAT / this.#temperature;
    for (let id = 0; id < logits.length; id++) {
      const depth = (this.#best - (logits[id] as number)) * scale;
      if (depth >= LAST_BUCKET) {
        buckets[id] = LAST_BUCKET;
        continue;
      }
      const bucket = depth | 0;
      const x = (bucket - depth) * (1 / BUCKETS_PER_NAT); // in (-1/64, 0]
      const weight = (LARGEST_WEIGHTS[bucket] as number) * (1 + x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24)))));
      buckets[id] = bucket;
      weights[bucket] = (weights[bucket] as number) + weight;
    }
    // In the last bucket tokens are further apart than the polynomial is accurate.
    let last = 0;
    for (const id of this.#idsIn(LAST_BUCKET)) {
      last += weightOf(logits[id] ?? -Infinity, this.#best, this.#temperature);
    }
    weights[LAST_BUCKET] = last;
  }

  /** Lists the tokens of one bucket, the lowest id first. */
  #idsIn(bucket: number): number[] {
    const ids: number[] = [];
    const buckets = this.#buckets;
    for (let id = buckets.indexOf(bucket); id !== -1; id = buckets.indexOf(bucket, id + 1)) ids.push(id);
    return ids;
  }
}
