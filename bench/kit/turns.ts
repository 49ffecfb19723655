// In which order variants are measured. A machine that others share, or that gets warm, changes its speed: neighbours
// in time meet the same machine, and the first variant is measured once more at the end, which shows how much the
// machine changed.

import { distinct, type Figure, type Sample, valuesOf } from "./samples.ts";
import type { SuiteContext } from "./suite.ts";

export interface Turn {
  readonly variant: number;
  readonly round: number;
}

/** Orders variants forwards and backwards, with the first variant last: A B C A, A B C C B A, A B C C B A A B C A, … */
export function turnsOf(numVariants: number, rounds: number): readonly Turn[] {
  const turns = Array.from({ length: rounds }, (_, round) => {
    const forwards = Array.from({ length: numVariants }, (__, variant) => ({ variant, round }));
    return round % 2 === 0 ? forwards : forwards.toReversed();
  }).flat();
  const endsWithFirst = turns.length > 1 && turns.at(-1)?.variant === 0;
  return endsWithFirst || turns.length === 0 ? turns : [...turns, { variant: 0, round: rounds }];
}

export interface Drift {
  readonly at: number | string;
  readonly metric: string;
  /** Relative change of the first variant from its first to its last value: 0.1 is 10 %. */
  readonly change: number;
}

/** Computes the change of the machine from the first variant's metrics that were measured twice or more. */
export function driftOf(samples: readonly Sample[]): readonly Drift[] {
  const [first] = samples.toSorted((a, b) => a.turn - b.turn);
  if (!first) return [];
  const own = samples.filter(({ variant }) => variant === first.variant);
  return distinct(own.map(({ metric }) => metric)).flatMap((metric) =>
    distinct(own.filter((one) => one.metric === metric).map(({ at }) => at)).flatMap((at) => {
      const values = valuesOf(own, { variant: first.variant, at, metric });
      const [earliest = NaN, latest = NaN] = [values[0], values.at(-1)];
      if (values.length < 2 || earliest === latest) return values.length < 2 ? [] : [{ at, metric, change: 0 }];
      return [{ at, metric, change: (latest - earliest) / Math.abs(earliest) }];
    }),
  );
}

/** A variant that takes turns with others. */
export interface Variant {
  readonly name: string;
  /** Makes one measurement. @param seed - the same for all variants of a round */
  readonly measure: (seed: number) => Promise<readonly Figure[]>;
}

/** The results of variants that took turns. */
export interface Interleaved {
  readonly samples: readonly Sample[];
  /** Reasons of variants that failed, by name. */
  readonly failures: ReadonlyMap<string, string>;
}

/**
 * Measures variants in turn, the first one once more at the end. A variant that fails is not tried again in this run,
 * and the others continue.
 * @param group - name that is unique in the suite
 */
export async function interleave(
  { keep, say, settings, signal }: SuiteContext,
  group: string,
  variants: readonly Variant[],
  rounds: number = settings.rounds,
): Promise<Interleaved> {
  const samples: Sample[] = [];
  const failures = new Map<string, string>();
  const turns = turnsOf(variants.length, rounds);
  for (const [turn, { variant, round }] of turns.entries()) {
    const { name, measure } = variants[variant] as Variant;
    if (failures.has(name)) continue;
    try {
      const figures = await keep(`${group} | ${name} | ${turn}`, async () => {
        say(`${group}: ${name} (${turn + 1} of ${turns.length})`);
        const measured = await measure(settings.seed + round);
        // Values such as the speed of no tokens are left out.
        return measured.filter(({ value }) => Number.isFinite(value));
      });
      samples.push(...figures.map((figure) => ({ at: "", ...figure, variant: name, round, turn })));
    } catch (error) {
      // An interrupt is no failure of the variant.
      signal?.throwIfAborted();
      const why = error instanceof Error ? error.message : String(error);
      failures.set(name, why);
      say(`${group}: ${name} failed: ${why}`);
    }
  }
  return { samples, failures };
}
