// What a tuning did, in figures. Spelled as in report.json.

import { bestOf, type Evaluation, type TuningHistory } from "../training/history.ts";
import type { DomainCounts } from "../job/tuning-data.ts";
import { stepsOf, type ResolvedTuneOptions } from "../options.ts";

/** What a tuning did: the field `tuning` of the result's report.json. */
export interface TuningReport {
  readonly version: 1;
  /** As their user called them. */
  readonly model: string;
  readonly teacher: string;
  readonly options: ResolvedTuneOptions;
  readonly trained_parameters: number;
  readonly steps: number;
  /** Planned; fewer were done where the loss no longer fell. */
  readonly planned_steps: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly data: readonly DomainCounts[];
  /** Losses on held-out text with the model's own router, in nats per token. */
  readonly dense: TuningLosses;
  readonly before: TuningLosses;
  /** Of the parameters that were kept: those of the least loss. */
  readonly after: TuningLosses;
  readonly curve: readonly TuningPoint[];
  /** Means of each step. */
  readonly training: readonly {
    readonly divergence: number;
    readonly cross_entropy: number;
    readonly gradient_norm: number;
  }[];
}

/** Losses on held-out text, in nats per token. `above_dense` is `mean` less the dense teacher's. */
export interface TuningLosses {
  readonly mean: number;
  readonly above_dense: number;
  /** By kind of text. */
  readonly losses: Readonly<Record<string, number>>;
}

/** Losses that were measured on the way: behind which step, and after how many tokens. */
export interface TuningPoint extends TuningLosses {
  readonly step: number;
  readonly tokens: number;
}

export interface TuningFacts {
  readonly model: string;
  readonly teacher: string;
  readonly options: ResolvedTuneOptions;
  readonly trainedParameters: number;
  /** In steps and measurements of this process. */
  readonly seconds: number;
  readonly domains: readonly DomainCounts[];
  readonly history: TuningHistory;
}

export function tuningReport({ history, options, domains, trainedParameters, ...facts }: TuningFacts): TuningReport {
  const tokensOf = (steps: number): number => steps * options.batchSequences * options.sequenceTokens;
  const losses = ({ mean, losses: all }: Evaluation): TuningLosses => ({
    mean,
    above_dense: mean - history.teacher.mean,
    losses: Object.fromEntries(domains.map(({ name }, index) => [name, all[index] as number])),
  });
  return {
    version: 1,
    model: facts.model,
    teacher: facts.teacher,
    options,
    trained_parameters: trainedParameters,
    steps: history.steps.length,
    planned_steps: stepsOf(options),
    tokens: tokensOf(history.steps.length),
    seconds: facts.seconds,
    data: domains,
    dense: losses(history.teacher),
    before: losses(history.evaluations[0] as Evaluation),
    after: losses(bestOf(history)),
    curve: history.evaluations.map((one) => ({ step: one.step, tokens: tokensOf(one.step), ...losses(one) })),
    training: history.steps.map(({ divergence, crossEntropy, gradientNorm }) => ({
      divergence,
      cross_entropy: crossEntropy,
      gradient_norm: gradientNorm,
    })),
  };
}
