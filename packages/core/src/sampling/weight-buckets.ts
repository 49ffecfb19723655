import { bestLogits } from "./ranked-logits.ts";
import { weightOf } from "./total-weight.ts";

const BUCKETS_PER_NAT = 64;
const NUM_BUCKETS = 64 * BUCKETS_PER_NAT;
/** Takes everything more than 64 nats below the best token: together less than one part in 1e22. */
const LAST_BUCKET = NUM_BUCKETS - 1;
const LARGEST_WEIGHTS = Float64Array.from({ length: NUM_BUCKETS }, (_, bucket) => Math.exp(-bucket / BUCKETS_PER_NAT));

/** A token, and the weight of all tokens up to and with it in falling order. */
interface Reached {
  readonly id: number;
  readonly sum: number;
}

type Reaches = (sum: number, least: number) => boolean;

const isAtLeast: Reaches = (sum, least) => sum >= least;
const isAbove: Reaches = (sum, least) => sum > least;

/**
 * All tokens in falling order without sorting them: in buckets of nearly equal weight, of which only those are sorted
 * that a sum ends in.
 */
export class WeightBuckets {
  readonly #logits: Float32Array;
  readonly #best: number;
  readonly #temperature: number;
  /** Bucket of each token. */
  readonly #buckets: Uint16Array;
  /** Sums of each bucket. */
  readonly #weights: Float64Array;
  readonly #total: number;

  /** @param best - the largest of `logits`, finite */
  constructor(logits: Float32Array, best: number, temperature: number) {
    this.#logits = logits;
    this.#best = best;
    this.#temperature = temperature;
    this.#buckets = new Uint16Array(logits.length);
    this.#weights = new Float64Array(NUM_BUCKETS);
    fillBuckets(this.#buckets, this.#weights, { logits, best, temperature });
    let total = 0;
    for (let bucket = 0; bucket < NUM_BUCKETS; bucket++) total += this.#weights[bucket] as number;
    this.#total = total;
  }

  /** The token that `u`, in [0, 1), falls on among the fewest heaviest that reach `topP` of the total. */
  choose(topP: number, u: number): number {
    const kept = topP === 1 ? this.#total : this.#first(topP * this.#total, isAtLeast).sum;
    return this.#first(u * kept, isAbove).id;
  }

  /** The first token whose sum reaches `least`; the last one of any weight when rounding lets none. */
  #first(least: number, reaches: Reaches): Reached {
    let [before, last, beforeLast] = [0, 0, 0];
    for (let bucket = 0; bucket < NUM_BUCKETS; bucket++) {
      const weight = this.#weights[bucket] as number;
      if (weight === 0) continue;
      if (reaches(before + weight, least)) return this.#firstInBucket(bucket, before, least, reaches);
      last = bucket;
      beforeLast = before;
      before += weight;
    }
    return this.#firstInBucket(last, beforeLast, least, reaches);
  }

  #firstInBucket(bucket: number, before: number, least: number, reaches: Reaches): Reached {
    const ids = idsInBucket(this.#buckets, bucket);
    const logits = Float32Array.from(ids, (id) => this.#logits[id] as number);
    // Adding one by one must not lead past the bucket's end, or top-p could let in a token of the next.
    const end = before + (this.#weights[bucket] as number);
    let reached: Reached = { id: -1, sum: before };
    for (const index of bestLogits(logits, logits.length).ids) {
      const weight = weightOf(logits[index] as number, this.#best, this.#temperature);
      if (weight === 0) break;
      reached = { id: ids[index] as number, sum: Math.min(reached.sum + weight, end) };
      if (reaches(reached.sum, least)) break;
    }
    return reached;
  }
}

interface Weighed {
  readonly logits: Float32Array;
  /** The largest of them. */
  readonly best: number;
  readonly temperature: number;
}

/**
 * Puts every token into its bucket, and adds its weight to the bucket's. A weight is the bucket's largest one times a polynomial, within
 * 1e-11 of `weightOf`. An exponential for each token took twice as long as the whole pass.
 */
function fillBuckets(buckets: Uint16Array, weights: Float64Array, { logits, best, temperature }: Weighed): void {
  const scale = BUCKETS_PER_NAT / temperature;
  for (let id = 0; id < logits.length; id++) {
    const depth = (best - (logits[id] as number)) * scale;
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
  // In the last one tokens are further apart than the polynomial reaches.
  for (const id of idsInBucket(buckets, LAST_BUCKET)) {
    const weight = weightOf(logits[id] as number, best, temperature);
    weights[LAST_BUCKET] = (weights[LAST_BUCKET] as number) + weight;
  }
}

/** Tokens of one bucket, the lowest id first. */
function idsInBucket(buckets: Uint16Array, bucket: number): number[] {
  const ids: number[] = [];
  for (let id = buckets.indexOf(bucket); id !== -1; id = buckets.indexOf(bucket, id + 1)) ids.push(id);
  return ids;
}
