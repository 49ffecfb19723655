import type { Figure, Sample } from "./sample.ts";
import type { SuiteContext } from "./suite.ts";
import { turnsOf } from "./turns.ts";

/** One of those that take turns. */
export interface Variant {
  readonly name: string;
  /** One measurement. @param seed - the same for all variants of a round */
  readonly measure: (seed: number) => Promise<readonly Figure[]>;
}

/** What came of variants that took turns. */
export interface Interleaved {
  readonly samples: readonly Sample[];
  /** Variants that could not be measured, and why. */
  readonly failures: ReadonlyMap<string, string>;
}

/**
 * Measures variants in turn, the first one once more at the end. One that fails is not tried again in
 * this run, and the others go on.
 * @param group - of what is measured; says apart what one suite measures one after the other
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
        // What is no number, such as the speed of nothing, is no measurement.
        return measured.filter(({ value }) => Number.isFinite(value));
      });
      samples.push(...figures.map((figure) => ({ at: "", ...figure, variant: name, round, turn })));
    } catch (error) {
      // Nobody is to blame for what was interrupted.
      signal?.throwIfAborted();
      const why = error instanceof Error ? error.message : String(error);
      failures.set(name, why);
      say(`${group}: ${name} failed: ${why}`);
    }
  }
  return { samples, failures };
}
