// Decisions of a draft head: how far it drafts, for which sequences, and the chances of its drafts. Pure functions.

import { type Draft, expectedTokens } from "@readme-moe/core";
import type { ChancesOf, VerifyingStep } from "./drafter.ts";

/** The step that verifies drafts, with the drafts that are known so far. */
export type StepSoFar = Pick<VerifyingStep, "tokens" | "ms">;

/** Costs of one more token of drafts. */
export interface DraftCosts {
  /** Predicts the time of a run of the draft head with this many rows. */
  readonly runMs: (numRows: number) => number;
  /** Time that one row adds to the step that verifies it. */
  readonly rowMs: number;
}

/** A sequence for which no draft has begun. */
interface DraftProspect {
  /** Time that its drafts save on average, the head's runs not counted. */
  readonly gainMs: number;
  readonly mostTokens: number;
}

/** Rows of a sequence in the first run: the token that the last step gave, and a drafted one that it accepted last. */
export const FIRST_ROWS = 2;

/**
 * Chooses the sequences whose drafts save more time than the head's first run takes. Reading a prompt is not charged:
 * it is spent once for all steps of its sequence.
 *
 * @returns ascending indices; none if no draft pays
 */
export function startingDrafts(prospects: readonly DraftProspect[], runMs: DraftCosts["runMs"]): readonly number[] {
  // The time of a run depends on the number of sequences alone, so the largest gains are taken first.
  const order = Array.from(prospects.keys())
    .filter((index) => (prospects[index]?.mostTokens ?? 0) > 0)
    .sort((a, b) => gainOf(prospects, b) - gainOf(prospects, a));
  let [best, numChosen, gainMs] = [0, 0, 0];
  for (const [place, index] of order.entries()) {
    gainMs += gainOf(prospects, index);
    const ms = gainMs - runMs(FIRST_ROWS * (place + 1));
    if (ms > best) [best, numChosen] = [ms, place + 1];
  }
  return order.slice(0, numChosen).sort((a, b) => a - b);
}

function gainOf(prospects: readonly DraftProspect[], index: number): number {
  return prospects[index]?.gainMs ?? 0;
}

/** Computes the time that a draft of these chances saves: each token of its best part saves a share of the step. */
export function savedMs(chances: readonly number[], { tokens, ms, msPerRow }: VerifyingStep): number {
  let [chance, sum] = [1, 0];
  for (const one of chances) {
    chance *= one;
    const gainMs = (chance * ms) / Math.max(1, tokens) - msPerRow;
    if (gainMs <= 0) break;
    sum += gainMs;
  }
  return sum;
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

/** Lower bounds of the classes of evidence from 1 on; the classes are finer where a draft may become long. */
const BOUNDS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99] as const;

/** Returns the class of evidence of a token that the draft head gives this probability. */
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

/** Averages values of a sequence, recent ones most. */
export function averaged(average: number, value: number): number {
  return average + NEW_SHARE * (value - average);
}

/** Moves an average towards another value, by little. */
export function relaxed(average: number, towards: number): number {
  return average + RELAXED_SHARE * (towards - average);
}

interface ChainLimits {
  readonly mostTokens: number;
  /** Smallest chance that a token is reached and accepted. */
  readonly leastChance: number;
  /** Tokens after which nothing follows. */
  readonly eosTokenIds: readonly number[];
  /** @default the draft head's own probabilities */
  readonly chancesOf?: ChancesOf | undefined;
}

/** A draft that grows by the best token of a draft head. */
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
    return { source: "head", tokenIds: this.#tokenIds, classes: this.#classes };
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

  /** Adds a token with the draft head's probability of it, unless the draft ends before it. */
  add(tokenId: number, probability: number): void {
    const {
      mostTokens,
      leastChance,
      eosTokenIds,
      chancesOf = ({ classes }: Draft) => classes.map((evidence) => typicalChance(evidence)),
    } = this.#limits;
    // Logits that are not finite give no probability.
    if (this.#isOver || !(probability >= 0)) return this.end();
    const longer: Draft = {
      source: "head",
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

/** Averages by sequence, the newest counting most: chances of drafted tokens, and times that drafts save. */
export class SequenceAverages {
  readonly #averages = new Map<string, number>();

  of(id: string): number | undefined {
    return this.#averages.get(id);
  }

  /** Includes some values; before the first ones the average is `first`. */
  include(id: string, values: readonly number[], first: number): void {
    if (values.length > 0) this.#averages.set(id, values.reduce(averaged, this.of(id) ?? first));
  }

  /** Notes that a sequence was not drafted for: its average moves towards `first`, so that it is tried again later. */
  relax(id: string, first: number): void {
    this.#averages.set(id, relaxed(this.of(id) ?? first, first));
  }

  forget(id: string): void {
    this.#averages.delete(id);
  }
}
