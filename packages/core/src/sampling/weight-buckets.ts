import { bestLogits } from "./ranked-logits.ts";
import { weightOf } from "./total-weight.ts";

const BUCKETS_PER_NAT = 16;
const NUM_BUCKETS = 1024;
/** Takes everything more than 64 nats below the best token: together less than one part in 1e22. */
const LAST_BUCKET = NUM_BUCKETS - 1;
const LARGEST_WEIGHTS = Float64Array.from({ length: NUM_BUCKETS }, (_, bucket) => Math.exp(-bucket / BUCKETS_PER_NAT));

/** A token, and the weight of all tokens up to and with it in falling order. */
interface Reached {
  readonly id: number;
  readonly sum: number;
}

/**
 * All tokens in falling order without sorting them: in buckets of nearly equal weight, of which only those are sorted
 * that a sum ends in.
 */
export class WeightBuckets {
  readonly #logits: Float32Array;
  readonly #best: number;
  readonly #temperature: number;
  readonly #bucketOf: Uint16Array; // [vocabSize]
  readonly #weights = new Float64Array(NUM_BUCKETS);
  readonly #total: number;

  /** @param best - the largest of `logits`, finite */
  constructor(logits: Float32Array, best: number, temperature: number) {
    this.#logits = logits;
    this.#best = best;
    this.#temperature = temperature;
    this.#bucketOf = new Uint16Array(logits.length);
    fill(this.#bucketOf, this.#weights, logits, best, temperature);
    this.#total = this.#weights.reduce((sum, weight) => sum + weight);
  }

  /** The token that `u`, in [0, 1), falls on among the fewest heaviest that reach `topP` of the total. */
  choose(topP: number, u: number): number {
    const kept = topP === 1 ? this.#total : this.#firstWhere((sum) => sum >= topP * this.#total).sum;
    return this.#firstWhere((sum) => sum > u * kept).id;
  }

  /** The first token whose sum makes `isReached` true; the last one of any weight when rounding lets none. */
  #firstWhere(isReached: (sum: number) => boolean): Reached {
    let [before, last, beforeLast] = [0, 0, 0];
    for (let bucket = 0; bucket < NUM_BUCKETS; bucket++) {
      const weight = this.#weights[bucket] as number;
      if (weight === 0) continue;
      if (isReached(before + weight)) return this.#firstInBucket(bucket, before, isReached);
      [last, beforeLast] = [bucket, before];
      before += weight;
    }
    return this.#firstInBucket(last, beforeLast, isReached);
  }

  #firstInBucket(bucket: number, before: number, isReached: (sum: number) => boolean): Reached {
    const ids: number[] = [];
    for (let id = 0; id < this.#bucketOf.length; id++) if (this.#bucketOf[id] === bucket) ids.push(id);
    const logits = Float32Array.from(ids, (id) => this.#logits[id] as number);
    // Adding one by one must not lead past the bucket's end, or top-p could let in a token of the next.
    const end = before + (this.#weights[bucket] as number);
    let reached: Reached = { id: -1, sum: before };
    for (const index of bestLogits(logits, logits.length).ids) {
      const weight = weightOf(logits[index] as number, this.#best, this.#temperature);
      if (weight === 0) break;
      reached = { id: ids[index] as number, sum: Math.min(reached.sum + weight, end) };
      if (isReached(reached.sum)) break;
    }
    return reached;
  }
}

/**
 * Puts every token into its bucket. A weight is its bucket's largest times a polynomial, within 1e-14 of `weightOf`:
 * an exponential each took twice as long as all of this.
 */
function fill(
  bucketOf: Uint16Array,
  weights: Float64Array,
  logits: Float32Array,
  best: number,
  temperature: number,
): void {
  for (let id = 0; id < logits.length; id++) {
    const nats = (best - (logits[id] as number)) / temperature;
    // The minimum first: `| 0` makes `Infinity` 0.
    const bucket = Math.min(nats * BUCKETS_PER_NAT, LAST_BUCKET) | 0;
    const x = bucket / BUCKETS_PER_NAT - nats; // in (-1/16, 0], but in the last bucket
    const weight = bucket === LAST_BUCKET ? Math.exp(-nats) : (LARGEST_WEIGHTS[bucket] as number) * taylorExp(x);
    bucketOf[id] = bucket;
    weights[bucket] = (weights[bucket] as number) + weight;
  }
}

function taylorExp(x: number): number {
  return 1 + x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x / 5040))))));
}
