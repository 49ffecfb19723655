// What each segment takes of a step's feeds.

import type { Feeds, GraphTensor } from "@readme-moe/model";
import type { LayerRange } from "../decoder-graph.ts";

const PAST = /^(.*\.past_(?:keys|values))\.(\d+)$/;
const OF_FIRST = /^token_ids$/;
const OF_LAST = /^(?:logit_rows|targets|full_rows|num_candidates)$/;

/** Feeds of the whole graph by segment: each one counts layers from its own first one. */
export function dealSegmentFeeds(feeds: Feeds, ranges: readonly LayerRange[]): readonly Feeds[] {
  const dealt = ranges.map((): Record<string, GraphTensor> => ({}));
  for (const [name, tensor] of Object.entries(feeds)) {
    const [, past, layer] = PAST.exec(name) ?? [];
    if (past !== undefined) {
      const index = ranges.findIndex(({ to }) => Number(layer) < to);
      const first = ranges[index]?.from ?? 0;
      (dealt[index] as Record<string, GraphTensor>)[`${past}.${Number(layer) - first}`] = tensor;
    } else if (OF_FIRST.test(name)) (dealt[0] as Record<string, GraphTensor>)[name] = tensor;
    else if (OF_LAST.test(name)) (dealt.at(-1) as Record<string, GraphTensor>)[name] = tensor;
    else for (const own of dealt) own[name] = tensor;
  }
  return dealt;
}

/** What a segment takes of the outputs of the one before; nothing before the first. */
export function streamOf(outputs: Feeds): Feeds {
  const { next_residual: residual, next_update: update } = outputs;
  return residual && update ? { residual, update } : {};
}
