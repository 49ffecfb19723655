import type { FittedModel } from "./fit-model.ts";
import type { Grouping } from "./group-texts.ts";

/** Mean cost of each expert on a domain's calibration text, `[domain][expert]`. */
export function domainCosts(
  { stream, costs, costSequences }: Pick<FittedModel, "stream" | "costs" | "costSequences">,
  { names, domains }: Pick<Grouping, "names" | "domains">,
  numDomains: number,
): readonly Float64Array[] {
  const numExperts = names.length;
  const domainOf = domains.flat();
  const sums = Array.from({ length: numDomains }, () => new Float64Array(numExperts));
  const tokens = new Float64Array(numDomains);
  const size = stream.sequenceTokens * numExperts;
  for (const sequence of costSequences) {
    const domain = domainOf[sequence] as number;
    const own = sums[domain] as Float64Array;
    for (let at = 0; at < size; at++) {
      const expert = at % numExperts;
      own[expert] = (own[expert] as number) + (costs[sequence * size + at] as number);
    }
    tokens[domain] = (tokens[domain] as number) + stream.sequenceTokens;
  }
  // Of a domain without costs, all experts are as good.
  return sums.map((own, domain) => own.map((sum) => sum / Math.max(1, tokens[domain] as number)));
}

/** The expert that a document's domain stands for: its own, or of clusters the one that is best on the domain. */
export function expertsOfDomains(
  options: { readonly isByDomain: boolean },
  costs: readonly Float64Array[],
): readonly number[] {
  return costs.map((row, domain) => (options.isByDomain ? domain : row.indexOf(Math.min(...row))));
}
