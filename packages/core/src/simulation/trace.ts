// What a server did or might do, as plain data: who came when, with which experts, and which experts each step had.

import type { ExpertRun } from "../events.ts";
import type { ExpertLayout } from "../expert-cache/unit.ts";

/** A sequence as the simulator knows it: when it comes, and where its tokens go. */
export interface TraceSequence {
  readonly id: string;
  /** It can be in this step, and in later ones. Steps are numbered from 0 up. */
  readonly arrivalStep: number;
  readonly promptTokens: number;
  /**
   * The expert of each token that runs, `[promptTokens + outputTokens - 1]`: the last token that is generated never
   * does. At least `promptTokens`.
   */
  readonly experts: readonly number[];
}

/** A step that ran, by experts. */
export interface TraceStep {
  readonly step: number;
  /** Tokens of each expert, `[numExperts]`. */
  readonly tokensPerExpert: readonly number[];
  /** The runs through all layers that it took, where an engine with an expert cache ran it. */
  readonly runs?: readonly ExpertRun[] | undefined;
  /** In how many steps each expert was expected then, `[numExperts]`; `Infinity` is never. */
  readonly laterSteps?: readonly number[] | undefined;
}

/** Routes and arrivals, apart from any model: what `simulate` runs. Files of it: `readTrace`, `writeTrace`. */
export interface ExpertTrace {
  readonly layout: ExpertLayout;
  /** In order of arrival. */
  readonly sequences: readonly TraceSequence[];
  /** Steps that have run, in order; empty where none has. */
  readonly steps: readonly TraceStep[];
}

export function outputTokens({ promptTokens, experts }: Pick<TraceSequence, "promptTokens" | "experts">): number {
  return experts.length - promptTokens + 1;
}

/** The experts of a step that have tokens, in ascending order. */
export function distinctExperts({ tokensPerExpert }: Pick<TraceStep, "tokensPerExpert">): readonly number[] {
  return tokensPerExpert.flatMap((tokens, expert) => (tokens > 0 ? [expert] : []));
}
