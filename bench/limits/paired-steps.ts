// Measures steps of a dense model and of a mixture by turns, and their ratio with its confidence interval.

import { median } from "../kit/statistics.ts";
import type { Sample } from "../kit/samples.ts";
import type { SuiteContext } from "../kit/suite.ts";
import type { Shape } from "../random-model.ts";
import { caseName, type Cases } from "./cases.ts";
import type { ModelSpec } from "./jobs.ts";
import { runJob } from "./run-job.ts";

const STEP_MS = "step, ms";
export const DENSE = "dense";
export const MIXTURE = "mixture";

/** Model that takes turns with others. */
export interface PairedModel {
  readonly name: typeof DENSE | typeof MIXTURE;
  readonly numExperts: number;
  /** Models that are measured: itself, or smaller ones from which the steps of a large model are computed. */
  readonly measured: readonly ModelSpec[];
}

/** Makes a dense model of each shape, and a mixture with experts of half the width. */
export function pairOf(shapes: readonly Shape[], numExperts: number, denseShare: number): readonly PairedModel[] {
  const one = (name: PairedModel["name"], experts: number, share: number): PairedModel => ({
    name,
    numExperts: experts,
    measured: shapes.map((shape) => ({ shape, numExperts: experts, expertSize: shape.ffnSize * share })),
  });
  return [one(DENSE, 1, denseShare), one(MIXTURE, numExperts, 0.5)];
}

/** Milliseconds of one case, of each measured model and round. */
export interface CaseTimes {
  readonly variant: string;
  readonly at: string;
  readonly measuredMs: readonly (readonly number[])[];
}

export interface PairedSteps {
  readonly times: readonly CaseTimes[];
  readonly numRounds: number;
  readonly failures: readonly string[];
  /** Returns the ratio of medians over these rounds, by default all; NaN when not measured. */
  readonly stepMs: (variant: string, at: string, rounds?: readonly number[]) => number;
}

/** @param combine - computes a step's time from those of the measured models */
export function pairedSteps(
  times: readonly CaseTimes[],
  combine: (measuredMs: readonly number[]) => number,
  failures: readonly string[] = [],
): PairedSteps {
  const stepMs: PairedSteps["stepMs"] = (variant, at, rounds) => {
    const own = times.find((one) => one.variant === variant && one.at === at)?.measuredMs;
    const chosen = (all: readonly number[]) => rounds?.map((round) => all[round] as number) ?? all;
    return own ? combine(own.map((all) => median(chosen(all)))) : NaN;
  };
  return { times, numRounds: times[0]?.measuredMs[0]?.length ?? 0, failures, stepMs };
}

interface Measurement {
  /** Name of the measured metric in results. */
  readonly group: string;
  readonly models: readonly PairedModel[];
  readonly cases: Cases;
  readonly cacheFolder: string | undefined;
  readonly combine: (measuredMs: readonly number[]) => number;
}

/** Measures the cases of one number of sequences and one past together, in their own process. */
export async function measurePairs(
  { settings, keep, say, signal }: SuiteContext,
  { group, models, cases, cacheFolder, combine }: Measurement,
): Promise<PairedSteps> {
  const { threads, quick, rounds } = settings;
  const times: CaseTimes[] = [];
  const failures: string[] = [];
  for (const { numSeqs, past } of cases.dense) {
    const rows = models.flatMap((model) =>
      cases[model.name]
        .filter((one) => one.numSeqs === numSeqs && one.past === past)
        .map((one) => ({ model, one, at: caseName(one, model.numExperts) })),
    );
    const specs = models.flatMap(({ measured }) => measured);
    const entries = rows.flatMap(({ model, one }) =>
      model.measured.map((spec) => ({ model: specs.indexOf(spec), distinct: one.distinct })),
    );
    const name = `${group} | ${numSeqs} × ${past}`;
    const decoding = { numSeqs, past, entries, rounds: quick ? 3 : 8 * rounds };
    try {
      const measured = await keep(name, () => {
        say(`${name}: ${entries.length} by turns`);
        return runJob({ kind: "turns", models: specs, precision: "int8", threads, cacheFolder, ...decoding });
      });
      let place = 0;
      for (const { model, at } of rows) {
        const measuredMs = measured.slice(place, (place += model.measured.length));
        times.push({ variant: model.name, at, measuredMs });
      }
    } catch (error) {
      signal?.throwIfAborted();
      failures.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return pairedSteps(times, combine, failures);
}

/** Returns all measured times as samples. */
export function pairedSamples({ times }: PairedSteps): readonly Sample[] {
  return times.flatMap(({ variant, at, measuredMs }) =>
    measuredMs.flatMap((all, part) =>
      all.map((value, round) => ({
        metric: measuredMs.length > 1 ? `${STEP_MS}, of measured model ${part + 1}` : STEP_MS,
        variant,
        at,
        value,
        round,
        turn: round,
      })),
    ),
  );
}
