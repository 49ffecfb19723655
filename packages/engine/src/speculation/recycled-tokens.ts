// Candidates that earlier steps computed, as drafts. The idea is that of Token Recycling (arXiv 2408.08696), as a chain.

import type { Draft, LogitsRow } from "@readme-moe/core";

/** Options of `RecycledTokens`. */
export interface RecycledTokensOptions {
  /** Number of contexts of two tokens that are kept, a power of two; half as many of one token. @default 65536 */
  readonly contexts?: number | undefined;
}

const DEFAULT_CONTEXTS = 1 << 16;
/** Candidates that are kept of each context. */
const WAYS = 4;
const MOST_VISITS = 255;
// A context's probabilities are means of its last rows, this many of them.
const MEAN_ROWS = 8;
// A chain ends where the recorded probability is lower: nothing would run such a token.
const LEAST_PROBABILITY = 0.1;
const BUCKETS = 8;
const NO_TOKEN = -1;

/**
 * Remembers the likely tokens after one and two tokens, of all sequences of an engine, in some megabytes.
 *
 * The table has token ids and their probabilities, no texts and no names of clients, and a draft never changes which
 * tokens a request gets. But drafts of one client come from steps of others, so they change its timing: a client who
 * measures its own steps can learn that some request made the engine compute a certain token after certain two tokens.
 * It cannot learn whose request, when, or what came before. Where even that is too much, speculation must be off.
 */
export class RecycledTokens {
  readonly #pairs: ContextTable;
  readonly #singles: ContextTable;

  constructor({ contexts = DEFAULT_CONTEXTS }: RecycledTokensOptions = {}) {
    this.#pairs = new ContextTable(contexts);
    this.#singles = new ContextTable(Math.max(1, contexts / 2));
  }

  /**
   * Learns the candidates of a row of logits.
   *
   * @param before - the token before `last`, or -1
   * @param last - the token that the row follows
   */
  learn(before: number, last: number, row: Pick<LogitsRow, "candidateIds" | "candidateLogits" | "logSumExp">): void {
    this.#pairs.learn(before, last, row);
    this.#singles.learn(NO_TOKEN, last, row);
  }

  /**
   * Proposes the most likely chain of tokens after the last two.
   * @returns `undefined` if nothing likely is known
   */
  propose(before: number, last: number, mostTokens: number): Draft | undefined {
    const tokenIds: number[] = [];
    const classes: number[] = [];
    let [first, second] = [before, last];
    while (tokenIds.length < mostTokens) {
      const next = this.#pairs.best(first, second) ?? this.#singles.best(NO_TOKEN, second);
      if (!next || next.probability < LEAST_PROBABILITY) break;
      tokenIds.push(next.tokenId);
      classes.push(next.evidence);
      [first, second] = [second, next.tokenId];
    }
    return tokenIds.length > 0 ? { source: "recycled", tokenIds, classes } : undefined;
  }
}

class ContextTable {
  readonly #mask: number;
  readonly #keys: Int32Array;
  readonly #visits: Uint8Array;
  readonly ids: Int32Array;
  readonly probabilities: Float32Array;
  constructor(contexts: number) {
    this.#mask = contexts - 1;
    this.#keys = new Int32Array(2 * contexts);
    this.#visits = new Uint8Array(contexts);
    this.ids = new Int32Array(WAYS * contexts);
    this.probabilities = new Float32Array(WAYS * contexts);
  }
  learn(before: number, last: number, row: Pick<LogitsRow, "candidateIds" | "candidateLogits" | "logSumExp">): void {
    const slot = hashOf(before, last) & this.#mask;
    const isSame = this.#keys[2 * slot] === before && this.#keys[2 * slot + 1] === last;
    let visits = this.#visits[slot] ?? 0;
    if (!isSame && visits > 1) {
      this.#visits[slot] = Math.min(visits - 1, 8);
      return;
    }
    if (!isSame || visits === 0) {
      visits = 0;
      this.#keys[2 * slot] = before;
      this.#keys[2 * slot + 1] = last;
      this.probabilities.fill(0, WAYS * slot, WAYS * slot + WAYS);
    }
    visits = Math.min(visits + 1, MOST_VISITS);
    this.#visits[slot] = visits;
    const share = 1 / Math.min(visits, MEAN_ROWS);
    const from = WAYS * slot;
    const seen = new Map<number, number>();
    for (let w = 0; w < WAYS; w++) {
      const p = this.probabilities[from + w]! * (1 - share);
      if (p > 0) seen.set(this.ids[from + w]!, p);
    }
    for (let c = 0; c < Math.min(WAYS, row.candidateIds.length); c++) {
      const id = row.candidateIds[c]!;
      seen.set(id, (seen.get(id) ?? 0) + share * Math.exp(row.candidateLogits[c]! - row.logSumExp));
    }
    const top = [...seen].sort((a, b) => b[1] - a[1]).slice(0, WAYS);
    for (let w = 0; w < WAYS; w++) {
      this.ids[from + w] = top[w]?.[0] ?? 0;
      this.probabilities[from + w] = top[w]?.[1] ?? 0;
    }
  }
  best(before: number, last: number): { tokenId: number; probability: number; evidence: number } | undefined {
    const slot = hashOf(before, last) & this.#mask;
    const visits = this.#visits[slot] ?? 0;
    if (visits === 0 || this.#keys[2 * slot] !== before || this.#keys[2 * slot + 1] !== last) return undefined;
    const probability = this.probabilities[WAYS * slot] ?? 0;
    const bucket = Math.min(BUCKETS - 1, Math.floor(probability * BUCKETS));
    const many = visits >= 4 ? 1 : 0;
    return {
      tokenId: this.ids[WAYS * slot] ?? 0,
      probability,
      evidence: ((before === NO_TOKEN ? 1 : 0) * 2 + many) * BUCKETS + bucket,
    };
  }
}

function hashOf(before: number, last: number): number {
  const mixed = Math.imul(before, 0x9e3779b1) ^ Math.imul(last, 0x85ebca6b);
  return Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35) >>> 7;
}
