// Steps that are measured.

import { numbersOf, type BenchSettings } from "../kit/suite.ts";
import type { DecodeCase } from "../decode-steps.ts";

/** Names a case for tables, such as `16 × 128, 4 experts`. */
export function caseName({ numSeqs, past, distinct }: DecodeCase, numExperts: number): string {
  const experts = numExperts > 1 ? `, ${distinct} ${distinct === 1 ? "expert" : "experts"}` : "";
  return `${numSeqs} × ${past}${experts}`;
}

export interface Cases {
  /** Cases of the dense model: sequences of a step and tokens of each one's past. */
  readonly dense: readonly DecodeCase[];
  /** Cases of a mixture: the same with few and many distinct experts. */
  readonly mixture: readonly DecodeCase[];
}

/** @param contextTokens - of the model; a past and its steps have to fit */
export function casesOf(settings: BenchSettings, numExperts: number, contextTokens: number): Cases {
  const sequences = numbersOf(settings, "sequences", settings.quick ? [1, 4] : [1, 4, 16, 32]);
  const wanted = numbersOf(settings, "contexts", settings.quick ? [64] : [128, 1024]);
  const contexts = wanted.map((past) => Math.min(past, contextTokens - 128)).filter((past) => past > 0);
  const dense = [...new Set(contexts)].flatMap((past) => sequences.map((numSeqs) => ({ numSeqs, past, distinct: 1 })));
  const distincts = [1, 2, 4, 7].filter((distinct) => distinct <= numExperts);
  const mixture = dense.flatMap((one) =>
    distincts.filter((distinct) => distinct <= one.numSeqs).map((distinct) => ({ ...one, distinct })),
  );
  return { dense, mixture };
}
