// How often drafts were right, by source and class of evidence. An engine and each of its sequences keep such counts.

import type { Draft, DraftSource } from "./draft.ts";

/** Outcomes of drafts, by source and class. Plain data. */
export interface Acceptance {
  /** Number of a source's outcomes after which an outcome counts by a factor of e less. */
  readonly memory: number;
  /** Two numbers by class: how many tokens were tried, and how many of them were right. Old ones count less. */
  readonly outcomes: Readonly<Partial<Record<DraftSource, readonly number[]>>>;
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
const ENGINE_SHRINKAGE = 8;
const SEQUENCE_SHRINKAGE = 16;
// The same for a source as a whole in a sequence, counted as successes and as failures.
const SOURCE_SHRINKAGE = 4;

/**
 * Chances before any outcome; class c has number c modulo the list's length. Those of "context" and "recycled" are
 * means of 293 answers of SmolLM2-135M-Instruct (summaries, extraction and chat, greedy and at temperature 0.7).
 */
const PRIORS: Readonly<Record<DraftSource, readonly number[]>> = {
  prediction: [0.7],
  grammar: [0.95],
  context: [
    ...[0.27, 0.47, 0.12], // a match of 1 token: seen once, agreed, disputed
    ...[0.5, 0.68, 0.35], // 2
    ...[0.62, 0.66, 0.54], // 3
    ...[0.73, 0.76, 0.62], // 4
    ...[0.81, 0.84, 0.7], // 6
    ...[0.92, 0.95, 0.87], // 9 and more
  ],
  recycled: [
    // After one token alone, in twelfths of probability; then after two tokens that were seen once to three times, then
    // more often.
    ...[0.1, 0.16, 0.2, 0.22, 0.23, 0.25, 0.28, 0.38, 0.42, 0.54, 0.58, 0.6],
    ...[0.15, 0.24, 0.3, 0.38, 0.5, 0.6, 0.73, 0.76, 0.82, 0.9, 0.96, 0.98],
    ...[0.1, 0.16, 0.23, 0.32, 0.42, 0.53, 0.64, 0.74, 0.82, 0.9, 0.95, 0.98],
  ],
  model: [0.5],
};

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
  const keep = Math.exp(-numTried / acceptance.memory);
  const counts = (acceptance.outcomes[source] ?? []).map((count) => count * keep);
  for (let at = 0; at < numTried; at++) {
    const evidence = classes[at] ?? 0;
    while (counts.length <= 2 * evidence + 1) counts.push(0);
    counts[2 * evidence] = triedOf(counts, evidence) + 1;
    if (at < accepted) counts[2 * evidence + 1] = rightOf(counts, evidence) + 1;
  }
  return { ...acceptance, outcomes: { ...acceptance.outcomes, [source]: counts } };
}

/**
 * Estimates the chance of each token of a draft to be accepted if all tokens before it are. The engine's counts of a
 * class shrink towards a prior. In a sequence they are changed by how much better or worse the whole source does there
 * than in the engine (a factor of the odds), and a sequence's own counts of the class shrink towards the result.
 *
 * @returns `[draft tokens]`, each in (0, 1)
 */
export function draftChances(ofEngine: Acceptance, ofSequence: Acceptance, draft: Draft): readonly number[] {
  const { source, classes } = draft;
  const engine = ofEngine.outcomes[source] ?? [];
  const own = ofSequence.outcomes[source] ?? [];
  const factor = oddsFactor(source, engine, own);
  return classes.map((evidence) => {
    const odds = oddsOf(usualChance(source, engine, evidence)) * factor;
    return shrunk(own, evidence, odds / (1 + odds), SEQUENCE_SHRINKAGE);
  });
}

/** Compares a sequence's outcomes of a source with what the engine's counts of their classes let expect. */
function oddsFactor(source: DraftSource, engine: readonly number[], own: readonly number[]): number {
  let [tried, right, expected] = [0, 0, 0];
  for (let evidence = 0; 2 * evidence < own.length; evidence++) {
    const count = triedOf(own, evidence);
    if (count === 0) continue;
    tried += count;
    right += rightOf(own, evidence);
    expected += count * usualChance(source, engine, evidence);
  }
  const shrunkOdds = (successes: number): number =>
    (successes + SOURCE_SHRINKAGE) / (tried - successes + SOURCE_SHRINKAGE);
  return shrunkOdds(right) / shrunkOdds(expected);
}

function usualChance(source: DraftSource, engine: readonly number[], evidence: number): number {
  const priors = PRIORS[source];
  return shrunk(engine, evidence, priors[evidence % priors.length] ?? 0.5, ENGINE_SHRINKAGE);
}

function shrunk(counts: readonly number[], evidence: number, towards: number, weight: number): number {
  return (rightOf(counts, evidence) + weight * towards) / (triedOf(counts, evidence) + weight);
}

function oddsOf(chance: number): number {
  return chance / (1 - chance);
}

function triedOf(counts: readonly number[], evidence: number): number {
  return counts[2 * evidence] ?? 0;
}

function rightOf(counts: readonly number[], evidence: number): number {
  return counts[2 * evidence + 1] ?? 0;
}
