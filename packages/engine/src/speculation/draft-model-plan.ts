// Decisions of a draft model: how far it drafts, for which sequences, and the chances of its drafts. Pure functions.

import { type CostModel, type Draft, expectedTokens, predictStepMs, refineCostModel } from "@readme-moe/core";
import { KV_PAGE_TOKENS, type KvMemory, type KvSlot } from "@readme-moe/kernel";
import type { StepRunner } from "../step-runner.ts";
import type { ChancesOf, VerifyingStep } from "./drafter.ts";

/** The step that verifies drafts, with the drafts that are known so far. */
export type StepSoFar = Pick<VerifyingStep, "tokens" | "ms">;

/** Costs of one more token of drafts. */
export interface DraftCosts {
  /** Predicts the time of a run of the draft model with this many rows. */
  readonly runMs: (numRows: number) => number;
  /** Time that one row adds to the step that verifies it. */
  readonly rowMs: number;
}

/** A sequence for which no draft has begun. */
interface DraftProspect {
  /** Chance that a drafted token is accepted, given that those before it were. */
  readonly chance: number;
  readonly mostTokens: number;
}

/** Rows of a sequence in the first run: the token that the last step gave, and a drafted one that it accepted last. */
const FIRST_ROWS = 2;

/**
 * Chooses the sequences whose drafts make the step give more tokens per millisecond, if their best common length is
 * drafted. Reading a prompt is not charged: it is spent once for all steps of its sequence.
 *
 * @returns ascending indices; none if no draft pays
 */
export function startingDrafts(
  step: StepSoFar,
  prospects: readonly DraftProspect[],
  { runMs, rowMs }: DraftCosts,
): readonly number[] {
  // Whatever the length, the runs of a number of sequences take the same time, so the best chances are taken first.
  const order = Array.from(prospects.keys())
    .filter((index) => (prospects[index]?.mostTokens ?? 0) > 0)
    .sort((a, b) => chanceOf(prospects, b) - chanceOf(prospects, a));
  const gains: number[] = [];
  const rows: number[] = [];
  let best = step.tokens / step.ms;
  let numChosen = 0;
  for (const [place, index] of order.entries()) {
    const { chance, mostTokens } = prospects[index] ?? { chance: 0, mostTokens: 0 };
    for (let length = 0, product = chance; length < mostTokens; length++, product *= chance) {
      gains[length] = (gains[length] ?? 0) + product;
      rows[length] = (rows[length] ?? 0) + 1;
    }
    let { tokens, ms } = step;
    for (const [length, gain] of gains.entries()) {
      const numRows = rows[length] ?? 0;
      tokens += gain;
      ms += runMs(length === 0 ? FIRST_ROWS * (place + 1) : numRows) + rowMs * numRows;
      if (tokens / ms <= best) continue;
      best = tokens / ms;
      numChosen = place + 1;
    }
  }
  return order.slice(0, numChosen).sort((a, b) => a - b);
}

function chanceOf(prospects: readonly DraftProspect[], index: number): number {
  return prospects[index]?.chance ?? 0;
}

/**
 * Chooses the drafts that get one more token, so that the step gives the most tokens per millisecond. It looks one
 * token ahead: further tokens of a draft have smaller chances at the same cost.
 *
 * @param gains - chance that a draft's next token is reached and accepted
 * @returns ascending indices into `gains`; none if no token pays
 */
export function continuedDrafts(
  step: StepSoFar,
  gains: readonly number[],
  { runMs, rowMs }: DraftCosts,
): readonly number[] {
  // The time depends on the number of drafts alone, so the largest gains are taken first.
  const order = Array.from(gains.keys()).sort((a, b) => (gains[b] ?? 0) - (gains[a] ?? 0));
  let best = step.tokens / step.ms;
  let numChosen = 0;
  let { tokens } = step;
  for (const [place, index] of order.entries()) {
    tokens += gains[index] ?? 0;
    const rate = tokens / (step.ms + runMs(place + 1) + rowMs * (place + 1));
    if (rate <= best) continue;
    best = rate;
    numChosen = place + 1;
  }
  return order.slice(0, numChosen).sort((a, b) => a - b);
}

/** Missing tokens that a sequence may always catch up with: those of a step whose draft was accepted or rejected. */
export const FEW_TOKENS = 16;

/**
 * Divides a run among sequences that are behind. Few missing tokens run at once, so that decoding sequences are not
 * delayed; the sequences with most missing tokens share the rest, the shortest first.
 *
 * @param missing - number of tokens that each sequence is behind
 * @param chunkTokens - most tokens of the sequences that are behind by more than a few
 * @returns number of tokens of each sequence that run now
 */
export function catchUpRows(missing: readonly number[], chunkTokens: number): readonly number[] {
  const rows = missing.map((tokens) => (tokens <= FEW_TOKENS ? tokens : 0));
  let left = chunkTokens;
  const order = Array.from(missing.keys()).sort((a, b) => (missing[a] ?? 0) - (missing[b] ?? 0));
  for (const index of order) {
    const tokens = missing[index] ?? 0;
    if (tokens <= FEW_TOKENS) continue;
    rows[index] = Math.min(tokens, left);
    left -= rows[index] ?? 0;
  }
  return rows;
}

/** Lower bounds of the classes of evidence from 1 on; the classes are finer where a draft may become long. */
const BOUNDS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99] as const;

/** Returns the class of evidence of a token that the draft model gives this probability. */
export function evidenceOf(probability: number): number {
  const above = BOUNDS.findIndex((bound) => probability < bound);
  return above < 0 ? BOUNDS.length : above;
}

/** Returns the middle of a class of evidence: the chance of its tokens before any was verified. */
export function typicalChance(evidence: number): number {
  return ((BOUNDS[evidence - 1] ?? 0) + (BOUNDS[evidence] ?? 1)) / 2;
}

/** Chance of a drafted token before anything is known about a sequence. */
export const FIRST_CHANCE = 0.6;
const NEW_SHARE = 0.1;
const RELAXED_SHARE = 1 / 256;

/** Averages the chances of a sequence's drafted tokens, recent ones most. */
export function averageChance(average: number, chance: number): number {
  return average + NEW_SHARE * (chance - average);
}

/** Moves the average of a sequence that is not drafted for towards the first one, so that it is tried again later. */
export function relaxedChance(average: number): number {
  return average + RELAXED_SHARE * (FIRST_CHANCE - average);
}

interface ChainLimits {
  readonly mostTokens: number;
  /** Smallest chance that a token is reached and accepted. */
  readonly leastChance: number;
  /** Number of tokens of the model that verifies. */
  readonly vocabSize: number;
  /** Tokens after which nothing follows. */
  readonly eosTokenIds: readonly number[];
  /** @default the draft model's own probabilities */
  readonly chancesOf?: ChancesOf | undefined;
}

/** A draft that grows by the best token of a draft model. */
export class DraftChain {
  readonly #limits: ChainLimits;
  readonly #tokenIds: number[] = [];
  readonly #classes: number[] = [];
  #chances: readonly number[] = [];
  #seenChances: readonly number[] = [];
  #isOver: boolean;

  constructor(limits: ChainLimits) {
    this.#limits = limits;
    this.#isOver = limits.mostTokens === 0;
  }

  get draft(): Draft {
    return { source: "model", tokenIds: this.#tokenIds, classes: this.#classes };
  }

  get length(): number {
    return this.#tokenIds.length;
  }

  /** Chance of each token, given that those before it were accepted; the last may be of a token that was not added. */
  get seenChances(): readonly number[] {
    return this.#seenChances;
  }

  /** Chance that all tokens are accepted. */
  get chance(): number {
    return this.#chances.reduce((product, chance) => product * chance, 1);
  }

  get expectedTokens(): number {
    return expectedTokens(this.#chances);
  }

  /** The last token, if another one may follow it. */
  get growsFrom(): number | undefined {
    return this.#isOver ? undefined : this.#tokenIds.at(-1);
  }

  /** Adds a token with the draft model's probability of it, unless the draft ends before it. */
  add(tokenId: number, probability: number): void {
    const {
      mostTokens,
      leastChance,
      vocabSize,
      eosTokenIds,
      chancesOf = ({ classes }: Draft) => classes.map((evidence) => typicalChance(evidence)),
    } = this.#limits;
    // Logits that are not finite give no probability.
    if (this.#isOver || tokenId >= vocabSize || !(probability >= 0)) return this.end();
    const longer: Draft = {
      source: "model",
      tokenIds: [...this.#tokenIds, tokenId],
      classes: [...this.#classes, evidenceOf(probability)],
    };
    const known = chancesOf(longer);
    this.#seenChances = known;
    if (known.reduce((product, chance) => product * chance, 1) < leastChance) return this.end();
    this.#tokenIds.push(tokenId);
    this.#classes.push(evidenceOf(probability));
    this.#chances = known;
    if (this.#tokenIds.length === mostTokens || eosTokenIds.includes(tokenId)) this.end();
  }

  end(): void {
    this.#isOver = true;
  }
}

/** Average chance of the drafted tokens of each sequence. */
export class SequenceChances {
  readonly #averages = new Map<string, number>();

  of(id: string): number {
    return this.#averages.get(id) ?? FIRST_CHANCE;
  }

  /** Includes the tokens of a draft. */
  include(id: string, chances: readonly number[]): void {
    if (chances.length > 0) this.#averages.set(id, chances.reduce(averageChance, this.of(id)));
  }

  /** Notes that a sequence was not drafted for. */
  relax(id: string): void {
    this.#averages.set(id, relaxedChance(this.of(id)));
  }

  forget(id: string): void {
    this.#averages.delete(id);
  }

  clear(): void {
    this.#averages.clear();
  }
}

// Runs of a draft model with what they cost, and its keys and values by sequence.

/** Tokens of a sequence that run after those in its memory. */
interface DraftModelRow {
  readonly cached: CachedSequence;
  readonly tokenIds: readonly number[];
  /** Whether the token that follows is wanted. */
  readonly isWanted: boolean;
}

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
  async run(
    rows: readonly DraftModelRow[],
  ): Promise<readonly ({ readonly tokenId: number; readonly probability: number } | undefined)[]> {
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
