// Candidates that earlier steps computed, as drafts: a chain, by the idea of Token Recycling (arXiv 2408.08696).

import { createHmac, randomBytes } from "node:crypto";
import type { Draft, LogitsRow } from "@readme-moe/core";

/** Candidates of a row, as a step returns them. */
export type RowCandidates = Pick<LogitsRow, "candidateIds" | "candidateLogits" | "logSumExp">;

/** The most likely token after some tokens, as far as is known. */
export interface LikelyToken {
  readonly tokenId: number;
  /** Estimate in (0, 1]. */
  readonly probability: number;
  /** Number of rows after the last two tokens that were learned, at most 255. */
  readonly visits: number;
}

/** Contexts of two tokens, if nothing else is said: 3 MB, and 1.5 MB of single tokens. */
const DEFAULT_CONTEXTS = 1 << 16;
/** Candidates that are kept of a context. */
const WAYS = 4;
const MOST_VISITS = 255;
// A context's probabilities are means, in which the newest row counts at least this share.
const LEAST_SHARE = 1 / 32;
// Two tokens are trusted as n / (n + 1) after n rows; the rest of the probability is that after one token, which is
// trusted as n / (n + 0.5).
const PAIR_DOUBT = 1;
const SINGLE_DOUBT = 0.5;
// Nothing would run a less likely token.
const LEAST_PROBABILITY = 0.1;
const PROBABILITY_BUCKETS = 12;
const SEVERAL_VISITS = 4;
/** Number of classes of evidence: buckets of probabilities after one token, and after two that were rare or known. */
export const RECYCLED_CLASSES: number = 3 * PROBABILITY_BUCKETS;
// Contexts that a new one meets in its slot leave after as many further meetings as they had rows, or this many.
const MOST_RESISTANCE = 8;
const NO_TOKEN = -1;

/** The salt of requests in 64 bits; 0 for requests without any. */
type SaltBits = readonly [high: number, low: number];

/** Memory of an engine for likely tokens, of all salts together. */
export class RecycledTables {
  readonly pairs: ContextTable;
  readonly singles: ContextTable;
  readonly merged: Candidates = new Candidates(2 * WAYS);
  readonly #secret: Uint8Array;

  /**
   * @param contexts - number of contexts of two tokens that are kept, a power of two from 2; half as many of one token
   * @param secret - decides the places of contexts of salted requests
   */
  constructor(contexts: number = DEFAULT_CONTEXTS, secret: Uint8Array = randomBytes(16)) {
    this.pairs = new ContextTable(contexts);
    this.singles = new ContextTable(contexts / 2);
    this.#secret = secret;
  }

  bitsOf(cacheSalt: string | undefined): SaltBits {
    if (cacheSalt === undefined) return [0, 0];
    const digest = createHmac("sha256", this.#secret).update(cacheSalt).digest();
    return [digest.readInt32LE(0), digest.readInt32LE(4)];
  }
}

/**
 * Remembers the likely tokens after one and two tokens, of the sequences of one salt.
 *
 * A draft never changes which tokens a request gets. It changes times and counts, though, by which a client can learn
 * that the engine has computed a certain token after a certain two tokens. So salts have only the room in common:
 * contexts of one displace those of another, at places that follow from a secret.
 */
export class RecycledTokens {
  readonly #tables: RecycledTables;
  readonly #salt: SaltBits;

  /** @param cacheSalt - of the sequences @default the sequences have none */
  constructor(tables: RecycledTables = new RecycledTables(), cacheSalt?: string) {
    this.#tables = tables;
    this.#salt = tables.bitsOf(cacheSalt);
  }

  /**
   * Learns the candidates of a row of logits.
   *
   * @param before - the token before `last`, or -1
   * @param last - the token that the row follows
   */
  learn(before: number, last: number, row: RowCandidates): void {
    if (!Number.isFinite(row.logSumExp)) return;
    this.#tables.pairs.learn(this.#salt, before, last, row);
    this.#tables.singles.learn(this.#salt, NO_TOKEN, last, row);
  }

  /** Finds the most likely token after two; `undefined` if nothing is known of the second. */
  likelyAfter(before: number, last: number): LikelyToken | undefined {
    const { pairs, singles, merged } = this.#tables;
    const pair = pairs.find(this.#salt, before, last);
    const single = singles.find(this.#salt, NO_TOKEN, last);
    const visits = pairs.visitsOf(pair);
    const trust = visits / (visits + PAIR_DOUBT);
    const singleVisits = singles.visitsOf(single);
    merged.clear();
    pairs.addTo(merged, pair, trust);
    singles.addTo(merged, single, (1 - trust) * (singleVisits / (singleVisits + SINGLE_DOUBT)));
    const best = merged.best();
    const probability = merged.weights[best] ?? 0;
    return probability > 0 ? { tokenId: merged.ids[best] ?? 0, probability, visits } : undefined;
  }

  /**
   * Proposes the most likely chain of tokens after the last two. The class of a token is below `RECYCLED_CLASSES`.
   * @returns `undefined` if nothing likely is known
   */
  propose(before: number, last: number, mostTokens: number): Draft | undefined {
    const tokenIds: number[] = [];
    const classes: number[] = [];
    let [first, second] = [before, last];
    while (tokenIds.length < mostTokens) {
      const next = this.likelyAfter(first, second);
      if (!next || next.probability < LEAST_PROBABILITY) break;
      tokenIds.push(next.tokenId);
      classes.push(evidenceClass(next));
      [first, second] = [second, next.tokenId];
    }
    return tokenIds.length > 0 ? { source: "recycled", tokenIds, classes } : undefined;
  }
}

function evidenceClass({ probability, visits }: LikelyToken): number {
  const bucket = Math.min(PROBABILITY_BUCKETS - 1, Math.floor(probability * PROBABILITY_BUCKETS));
  const known = visits === 0 ? 0 : visits < SEVERAL_VISITS ? 1 : 2;
  return known * PROBABILITY_BUCKETS + bucket;
}

/** A short list of tokens with weights. */
class Candidates {
  readonly ids: Int32Array;
  readonly weights: Float64Array;
  #count = 0;

  constructor(capacity: number) {
    this.ids = new Int32Array(capacity);
    this.weights = new Float64Array(capacity);
  }

  clear(): void {
    this.#count = 0;
    this.weights.fill(0);
  }

  /** Adds weight to a token. */
  add(id: number, weight: number): void {
    if (!(weight > 0)) return;
    let at = 0;
    while (at < this.#count && this.ids[at] !== id) at++;
    if (at === this.#count) this.#count++;
    this.ids[at] = id;
    this.weights[at] = (this.weights[at] ?? 0) + weight;
  }

  /** Finds the index of the largest weight, the first among equals. */
  best(): number {
    let best = 0;
    for (let at = 1; at < this.#count; at++) if ((this.weights[at] ?? 0) > (this.weights[best] ?? 0)) best = at;
    return best;
  }
}

/** Numbers of a context: both parts of the salt of a sequence, and two of its tokens. */
const CONTEXT_LENGTH = 4;

/** The likely tokens after contexts of at most two tokens, in one place for each hash. */
class ContextTable {
  readonly #mask: number;
  /** The context of each slot. */
  readonly #keys: Int32Array;
  readonly #visits: Uint8Array;
  /** `[slots, WAYS]`; unused ways have probability 0. */
  readonly #ids: Int32Array;
  readonly #probabilities: Float32Array;
  readonly #next = new Candidates(2 * WAYS);

  constructor(contexts: number) {
    this.#mask = contexts - 1;
    this.#keys = new Int32Array(CONTEXT_LENGTH * contexts);
    this.#visits = new Uint8Array(contexts);
    this.#ids = new Int32Array(WAYS * contexts);
    this.#probabilities = new Float32Array(WAYS * contexts);
  }

  /** Finds the slot of a context, or -1. */
  find(salt: SaltBits, before: number, last: number): number {
    const slot = hashOf(salt, before, last) & this.#mask;
    return this.#visits[slot] !== 0 && this.#isOf(slot, salt, before, last) ? slot : -1;
  }

  visitsOf(slot: number): number {
    return this.#visits[slot] ?? 0;
  }

  /** Adds a slot's candidates with their probabilities times `factor`; those of slot -1 are none. */
  addTo(candidates: Candidates, slot: number, factor: number): void {
    for (let way = WAYS * slot; way >= 0 && way < WAYS * (slot + 1); way++) {
      candidates.add(this.#ids[way] ?? 0, factor * (this.#probabilities[way] ?? 0));
    }
  }

  learn(salt: SaltBits, before: number, last: number, row: RowCandidates): void {
    const { candidateIds, candidateLogits, logSumExp } = row;
    const slot = this.#take(salt, before, last);
    if (slot < 0) return;
    const visits = Math.min(MOST_VISITS, this.visitsOf(slot) + 1);
    this.#visits[slot] = visits;
    const share = Math.max(LEAST_SHARE, 1 / visits);
    const next = this.#next;
    next.clear();
    this.addTo(next, slot, 1 - share);
    const count = Math.min(WAYS, candidateIds.length);
    for (let at = 0; at < count; at++) {
      next.add(candidateIds[at] ?? 0, share * Math.exp((candidateLogits[at] ?? -Infinity) - logSumExp));
    }
    for (let way = WAYS * slot; way < WAYS * (slot + 1); way++) {
      const best = next.best();
      this.#ids[way] = next.ids[best] ?? 0;
      this.#probabilities[way] = next.weights[best] ?? 0;
      next.weights[best] = 0;
    }
  }

  /** Takes the slot of a context. @returns -1 if another context with more rows keeps it */
  #take(salt: SaltBits, before: number, last: number): number {
    const slot = hashOf(salt, before, last) & this.#mask;
    if (this.#isOf(slot, salt, before, last)) return slot;
    const left = Math.min(MOST_RESISTANCE, this.visitsOf(slot)) - 1;
    this.#visits[slot] = Math.max(0, left);
    if (left > 0) return -1;
    this.#keys.set(salt, CONTEXT_LENGTH * slot);
    this.#keys[CONTEXT_LENGTH * slot + 2] = before;
    this.#keys[CONTEXT_LENGTH * slot + 3] = last;
    this.#probabilities.fill(0, WAYS * slot, WAYS * (slot + 1));
    return slot;
  }

  #isOf(slot: number, [high, low]: SaltBits, before: number, last: number): boolean {
    const [keys, at] = [this.#keys, CONTEXT_LENGTH * slot];
    return keys[at] === high && keys[at + 1] === low && keys[at + 2] === before && keys[at + 3] === last;
  }
}

function hashOf([high, low]: SaltBits, before: number, last: number): number {
  const mixed = Math.imul(before ^ high, 0x9e3779b1) ^ Math.imul(last ^ low, 0x85ebca6b);
  return Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35) >>> 7;
}
