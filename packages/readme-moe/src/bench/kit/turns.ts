// In which order variants are measured. A machine that others share, or that gets warm, changes its speed: whoever is measured
// next to whom meets the same machine, and the first variant once more at the end tells how much it changed.

import type { Sample } from "./sample.ts";
import { distinct, valuesOf } from "./sample.ts";

export interface Turn {
  readonly variant: number;
  readonly round: number;
}

/** Forwards and backwards in turn, and the first variant last: A B C A, A B C C B A, A B C C B A A B C A, … */
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
  /** How much larger the first variant's last value is than its first one: 0.1 is 10 %. */
  readonly change: number;
}

/** What the first variant's first and last measurement say of the machine; of metrics that it has twice. */
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
