// How long a step takes, as far as a scheduler can know before it runs.

/** Coefficients of a step's time; none is negative. Plain data. */
export interface CostModel {
  /** Of every step, whatever is in it. */
  readonly fixedMs: number;
  readonly msPerToken: number;
  /** Of each distinct expert that the step's tokens need. */
  readonly msPerExpert: number;
  /** Of each token whose keys and values the step reads. */
  readonly msPerCachedToken: number;
  /** Of each byte of expert weights that is not in memory. */
  readonly loadMsPerByte: number;
}

/** What a step's time depends on. */
export interface StepWork {
  readonly tokens: number;
  readonly distinctExperts: number;
  /** Computed tokens of the step's sequences, together. */
  readonly cachedTokens: number;
  readonly missingBytes: number;
}

/**
 * Coefficients where nothing was measured yet: SmolLM2-135M as seven experts in int8 on two Zen 5 cores, weights read at 1 GB/s.
 * They predict 44 measured steps (1 to 32 sequences behind 1 to 1,000 tokens, prompts to 1,024) with an error of 9 % on average. The worst
 * are chunks of a prompt behind 1,000 tokens, a third too low, because attention over a long chunk has no term of its own.
 * Other models and machines are learnt within some tens of steps (`refineCostModel`).
 */
export const DEFAULT_COST_MODEL: CostModel = {
  fixedMs: 1.5,
  msPerToken: 0.3,
  msPerExpert: 0.7,
  msPerCachedToken: 0.0008,
  loadMsPerByte: 1e-6,
};

/** Milliseconds that a step is expected to take. */
export function predictStepMs(model: CostModel, work: StepWork): number {
  return (
    model.fixedMs +
    model.msPerToken * work.tokens +
    model.msPerExpert * work.distinctExperts +
    model.msPerCachedToken * work.cachedTokens +
    model.loadMsPerByte * work.missingBytes
  );
}
