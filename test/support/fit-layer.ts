import { fitExpert, fitShared, type LayerFit } from "../../packages/refactor/src/experts/fit-layer.ts";
import type { FittedPart } from "../../packages/refactor/src/experts/fit-part.ts";
import { pooled, type Moments } from "../../packages/refactor/src/experts/moments.ts";
import type { LayerExperts } from "../../packages/refactor/src/experts/select.ts";

/** Fits a shared part and one expert for each entry of `moments`, one after another. */
export async function fitLayer(
  moments: readonly Moments[],
  fit: LayerFit,
): Promise<LayerExperts & { readonly relativeErrors: readonly number[] }> {
  const all = pooled(moments);
  const shared = await fitShared(all, fit);
  const experts: FittedPart[] = [];
  for (const own of moments) experts.push(await fitExpert({ own, all }, shared, fit));
  return { shared, experts, relativeErrors: experts.map(({ relativeError }) => relativeError) };
}
