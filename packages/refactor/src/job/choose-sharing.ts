// How many of a layer's neurons all experts share: what errs least on text that was not fitted to.

import type { FittedLayer } from "../experts/fit-layer.ts";
import { addErrors, type AttendedStates, type LayerPass } from "../layers/run-layer.ts";
import type { Batch, TokenStream } from "../layers/token-stream.ts";

/** One of so many batches of each domain is held back where there is a choice. */
const HELD_BACK = 8;

/** The last of every eight batches of each domain; of a domain with fewer, its last one if there is another. */
export function heldBackBatches({ batches }: Pick<TokenStream, "batches">): ReadonlySet<Batch> {
  const byDomain = new Map<number, Batch[]>();
  for (const batch of batches) byDomain.set(batch.domain, [...(byDomain.get(batch.domain) ?? []), batch]);
  const chosen = [...byDomain.values()].flatMap((own) => {
    const every = Math.min(HELD_BACK, own.length);
    return every < 2 ? [] : own.filter((_, index) => index % every === every - 1);
  });
  return new Set(chosen);
}

/** Mean error of each domain's own expert on some batches. */
export async function ownErrors(
  pass: LayerPass,
  states: AttendedStates,
  layer: FittedLayer,
  { share, batches }: { readonly share: number; readonly batches: ReadonlySet<Batch> },
): Promise<number> {
  const { stream } = pass;
  const numExperts = layer.experts.length;
  const costs = new Float32Array(stream.numTokens * numExperts);
  await addErrors(pass, states, layer, { share, costs, wants: (batch) => batches.has(batch) });
  let [sum, tokens] = [0, 0];
  for (const batch of batches) {
    const own = stream.view(costs, batch, numExperts);
    for (let at = batch.domain; at < own.length; at += numExperts) sum += own[at] as number;
    tokens += own.length / numExperts;
  }
  return sum / tokens;
}
