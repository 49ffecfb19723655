// How often drafts were right, by source and class of evidence. An engine and each of its sequences keep such counts.

import type { Draft, DraftSource } from "./draft.ts";

/** Outcomes of one class of evidence. Older outcomes count less, so these are not whole numbers. */
export interface ClassOutcomes {
  readonly tried: number;
  readonly accepted: number;
}

/** Outcomes of drafts, by source and class. Plain data. */
export interface Acceptance {
  /** Number of outcomes of a class after which an outcome counts by a factor of e less. */
  readonly memory: number;
  readonly outcomes: Readonly<Partial<Record<DraftSource, readonly ClassOutcomes[]>>>;
}

/** What became of a draft. */
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
const ENGINE_MEMORY = 2000;
// Number of outcomes that outweigh the prior of a class in the engine, and the engine's estimate in a sequence.
const ENGINE_SHRINKAGE = 8;
const SEQUENCE_SHRINKAGE = 8;

const NO_OUTCOMES: ClassOutcomes = { tried: 0, accepted: 0 };
const PRIOR: Readonly<Record<DraftSource, number>> = {
  prediction: 0.7,
  grammar: 0.95,
  context: 0.4,
  recycled: 0.3,
  model: 0.5,
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
  const tried = Math.min(verified, accepted + 1, classes.length);
  if (tried <= 0) return acceptance;
  const keep = Math.exp(-1 / acceptance.memory);
  const outcomes = Array.from(acceptance.outcomes[source] ?? []);
  for (let at = 0; at < tried; at++) {
    const evidence = classes[at] ?? 0;
    while (outcomes.length <= evidence) outcomes.push(NO_OUTCOMES);
    const before = outcomes[evidence] ?? NO_OUTCOMES;
    outcomes[evidence] = {
      tried: before.tried * keep + 1,
      accepted: before.accepted * keep + (at < accepted ? 1 : 0),
    };
  }
  return { ...acceptance, outcomes: { ...acceptance.outcomes, [source]: outcomes } };
}

/**
 * Estimates the chance of each token of a draft to be accepted if all tokens before it are. The counts of a sequence
 * shrink towards the engine's, and those towards a prior.
 *
 * @returns `[draft tokens]`, each in (0, 1)
 */
export function draftChances(ofEngine: Acceptance, ofSequence: Acceptance, draft: Draft): readonly number[] {
  const { source, classes } = draft;
  return classes.map((evidence) => {
    const engine = ofEngine.outcomes[source]?.[evidence] ?? NO_OUTCOMES;
    const own = ofSequence.outcomes[source]?.[evidence] ?? NO_OUTCOMES;
    const usual = shrunk(engine, PRIOR[source], ENGINE_SHRINKAGE);
    return shrunk(own, usual, SEQUENCE_SHRINKAGE);
  });
}

function shrunk({ tried, accepted }: ClassOutcomes, towards: number, weight: number): number {
  return (accepted + weight * towards) / (tried + weight);
}
