import type { LayerRange } from "../decoder-graph.ts";

// With more layers in a segment, fewer runs make a step; beyond this, what a run costs is a hundredth of it.
const MOST_LAYERS = 6;

/**
 * Cuts a model into runs of layers that are one graph each. Their experts are in memory together, so the less memory there
 * is, the fewer layers: two segments of all experts fit, that of the running one and that of the next.
 *
 * @param layerBytes - of one expert, by layer
 * @returns all layers, in order; segments of one layer where memory is short
 */
export function segmentsOf(
  layerBytes: readonly number[],
  numExperts: number,
  budgetBytes: number,
): readonly LayerRange[] {
  const numLayers = layerBytes.length;
  const fitting = Math.floor(budgetBytes / (2 * numExperts * Math.max(...layerBytes)));
  const most = Math.max(1, Math.min(MOST_LAYERS, fitting));
  const count = Math.ceil(numLayers / most);
  // Of about equal size: one that is larger than the others needs more memory than they do.
  const start = (segment: number): number => Math.round((segment * numLayers) / count);
  return Array.from({ length: count }, (_, segment) => ({ from: start(segment), to: start(segment + 1) }));
}
