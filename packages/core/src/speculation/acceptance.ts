// Counts of right drafts, by source and class of evidence. An engine and each of its sequences keep such counts.

import type { Draft, DraftSource } from "./plan-drafts.ts";

/** Outcomes of drafts, by source and class. Plain data. */
export interface Acceptance {
  /** Number of a source's outcomes after which an outcome counts by a factor of e less. */
  readonly memory: number;
  readonly outcomes: Readonly<Partial<Record<DraftSource, SourceOutcomes>>>;
}

/** Outcomes of one source. */
export interface SourceOutcomes {
  /** Amount that the latest outcome added to a count. It grows, so that older ones count less without being touched. */
  readonly weight: number;
  /**
   * Two numbers by class, how many tokens were tried and how many of them were right, in blocks of `BLOCK` classes. A
   * block without outcomes is empty.
   */
  readonly blocks: readonly (readonly number[])[];
}

/** Result of a draft. */
export interface DraftOutcome {
  /**
   * Number of the draft's tokens that were compared with drawn tokens. The draws of a step with k draft tokens also
   * decide token k + 1 if all k are accepted, so a draft of which no token ran teaches something too.
   */
  readonly verified: number;
  /** Number of the first of these `verified` tokens that were right, whether they ran or not. */
  readonly accepted: number;
}

// A text that changes its character shows within some tens of tokens, while the engine sees the mean of many texts.
const SEQUENCE_MEMORY = 32;
const ENGINE_MEMORY = 4000;
// Number of outcomes that outweigh the prior of a class in the engine, and the engine's estimate in a sequence.
const ENGINE_SHRINKAGE = 16;
const SEQUENCE_SHRINKAGE = 16;
// The same for a source as a whole in a sequence, counted as successes and as failures.
const SOURCE_SHRINKAGE = 4;
// Odds are estimated low: a plan runs the tokens with the highest estimates, which are more often too high than others,
// and tokens that do not run teach as much.
const PRIOR_DOUBT = 0.2;
const SEQUENCE_DOUBT = 0.8;

interface Priors {
  /** Chances by class, for classes below the list's length. */
  readonly chances: readonly number[];
  /** Factors of the odds: class c has the odds of class c modulo n, times the factor c / n, rounded down. */
  readonly factors: readonly number[];
}

/**
 * Chances before any outcome. Those of "context" and "recycled" were fitted to 294 answers of SmolLM2-135M-Instruct
 * (summaries, extraction and chat, greedy and at temperature 0.7): `npm run bench:drafts`.
 */
const FITTED: Readonly<Record<DraftSource, Priors>> = {
  prediction: { chances: [0.7], factors: [1] },
  // Tokens that are the only ones allowed, and tokens that are allowed among others.
  grammar: { chances: [0.98, 0.4], factors: [1] },
  context: {
    // Matches of 1, 2, 3, 4, 6 and 9 tokens: seen once, confirmed, disputed.
    chances: [0.33, 0.5, 0.18, 0.61, 0.69, 0.48, 0.71, 0.71, 0.66, 0.8, 0.79, 0.74, 0.87, 0.86, 0.78, 0.95, 0.95, 0.91],
    // Recycled candidates say nothing, the same with more and more certainty, something else with more and more.
    factors: [1, 1.8, 0.8, 4.9, 0.55, 0.28, 0.26].map(doubted),
  },
  recycled: {
    // Twelfths of probability: after one token alone, after two that were seen once to three times, and more often.
    chances: [
      [0.1, 0.19, 0.22, 0.23, 0.24, 0.25, 0.26, 0.33, 0.37, 0.49, 0.57, 0.57],
      [0.15, 0.25, 0.31, 0.39, 0.48, 0.6, 0.69, 0.75, 0.79, 0.87, 0.95, 0.97],
      [0.1, 0.18, 0.27, 0.35, 0.44, 0.54, 0.64, 0.74, 0.83, 0.9, 0.94, 0.98],
    ].flat(),
    // The texts say nothing, the same, something else by matches of 1, 2, 3, 4, 6 and 9 tokens.
    factors: [1, 2.6, 0.52, 0.17, 0.25, 0.18, 0.15, 0.06].map(doubted),
  },
  // The middles of the head's own probabilities in a class.
  head: {
    chances: [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.925, 0.965, 0.985, 0.995],
    factors: [1],
  },
};

function doubted(factor: number): number {
  return PRIOR_DOUBT * factor;
}

/** The prior of each class; one that is not listed is like the last one that is. */
const PRIORS = Object.fromEntries(
  Object.entries(FITTED).map(([source, priors]) => [source, priorChances(priors)]),
) as Readonly<Record<DraftSource, readonly number[]>>;

function priorChances({ chances, factors }: Priors): readonly number[] {
  return factors.flatMap((factor) => chances.map((chance) => changedChance(chance, factor)));
}

// An observation copies the blocks of its classes alone.
const BLOCK = 16;
const EMPTY: readonly number[] = [];
const NO_COUNTS: readonly number[] = Array.from({ length: 2 * BLOCK }, () => 0);
const NOTHING: SourceOutcomes = { weight: 1, blocks: [] };
const MOST_WEIGHT = 1e12;

/** Creates counts without outcomes. */
export function newAcceptance(of: "engine" | "sequence" = "sequence"): Acceptance {
  return { memory: of === "engine" ? ENGINE_MEMORY : SEQUENCE_MEMORY, outcomes: {} };
}

/**
 * Adds the outcome of a draft. Token i is tried only if all tokens before it were accepted.
 * @returns new counts
 */
export function observeDraft(
  acceptance: Acceptance,
  { source, classes }: Draft,
  { verified, accepted }: DraftOutcome,
): Acceptance {
  const numTried = Math.min(verified, accepted + 1, classes.length);
  if (numTried <= 0) return acceptance;
  const before = acceptance.outcomes[source] ?? NOTHING;
  const weight = before.weight * Math.exp(numTried / acceptance.memory);
  const blocks = Array.from(before.blocks);
  for (let at = 0; at < numTried; at++) {
    const evidence = classes[at] ?? 0;
    const number = Math.floor(evidence / BLOCK);
    while (blocks.length <= number) blocks.push(EMPTY);
    const block = Array.from(blocks[number]?.length ? blocks[number] : NO_COUNTS);
    const place = 2 * (evidence % BLOCK);
    block[place] = (block[place] ?? 0) + weight;
    if (at < accepted) block[place + 1] = (block[place + 1] ?? 0) + weight;
    blocks[number] = block;
  }
  const after =
    weight > MOST_WEIGHT
      ? { weight: 1, blocks: blocks.map((block) => block.map((count) => count / weight)) }
      : { weight, blocks };
  return { ...acceptance, outcomes: { ...acceptance.outcomes, [source]: after } };
}

/**
 * Estimates the chance of each token of a draft to be accepted if all tokens before it are. The engine's counts of a
 * class shrink towards a prior. In a sequence, their odds change by how much better or worse the whole source does
 * there than in the engine, and the sequence's own counts of the class shrink towards the result.
 *
 * @returns `[draft tokens]`, each in (0, 1)
 */
export function draftChances(ofEngine: Acceptance, ofSequence: Acceptance, draft: Draft): readonly number[] {
  const { source, classes } = draft;
  const engine = ofEngine.outcomes[source] ?? NOTHING;
  const own = ofSequence.outcomes[source] ?? NOTHING;
  const factor = oddsFactor(source, engine, own);
  return classes.map((evidence) => {
    const expected = changedChance(usualChance(source, engine, evidence), factor);
    return shrunk(own, evidence, expected, SEQUENCE_SHRINKAGE);
  });
}

/** Compares a sequence's outcomes of a source with what the engine's counts of their classes let expect. */
function oddsFactor(source: DraftSource, engine: SourceOutcomes, own: SourceOutcomes): number {
  let [tried, right, expected] = [0, 0, 0];
  for (let number = 0; number < own.blocks.length; number++) {
    const block = own.blocks[number] ?? EMPTY;
    for (let place = 0; place < block.length; place += 2) {
      const count = block[place] ?? 0;
      if (count === 0) continue;
      tried += count;
      right += block[place + 1] ?? 0;
      expected += count * usualChance(source, engine, number * BLOCK + place / 2);
    }
  }
  [tried, right, expected] = [tried / own.weight, right / own.weight, expected / own.weight];
  const shrunkOdds = (successes: number): number =>
    (successes + SOURCE_SHRINKAGE) / (tried - successes + SOURCE_SHRINKAGE);
  return (SEQUENCE_DOUBT * shrunkOdds(right)) / shrunkOdds(expected);
}

function usualChance(source: DraftSource, engine: SourceOutcomes, evidence: number): number {
  const priors = PRIORS[source];
  const prior = priors[Math.min(evidence, priors.length - 1)] ?? 0.5;
  return shrunk(engine, evidence, prior, ENGINE_SHRINKAGE);
}

/** Multiplies the odds of a chance. */
function changedChance(chance: number, factor: number): number {
  const odds = (chance / (1 - chance)) * factor;
  return odds / (1 + odds);
}

/** Shrinks the share of a class's tokens that were right towards a chance, which counts as `shrinkage` outcomes. */
function shrunk({ weight, blocks }: SourceOutcomes, evidence: number, towards: number, shrinkage: number): number {
  const block = blocks[Math.floor(evidence / BLOCK)] ?? EMPTY;
  const place = 2 * (evidence % BLOCK);
  const tried = (block[place] ?? 0) / weight;
  const right = (block[place + 1] ?? 0) / weight;
  return (right + shrinkage * towards) / (tried + shrinkage);
}
