// Sequences that attend together. Linear layers see the step's tokens as one flat list; attention needs them as
// [sequence, query], with each sequence's past beside them. A step has two groups, so that a chunk of prefill and
// many decoding sequences share one run without padding each other.

import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Add, And, Concat, Expand, Less, Range, Shape, Squeeze, Sub, Unsqueeze, Where } from "../onnx/operators.ts";

// Far below any score, and still finite after one is added.
const MASKED = -1e30;

export interface AttentionGroup {
  readonly name: string;
  /** Every sequence has exactly one query (decode); else queries are padded to the longest chunk. */
  readonly isDecode: boolean;
  /** int64 `[sequences]` or `[sequences, queries]`: where each query stands in the flat list; padding repeats any token. */
  readonly tokens: Value;
  readonly layers: readonly { readonly pastKeys: Value; readonly pastValues: Value }[];
  /** int64 `[2]`: past keys and new keys, the sizes that scores are split at. */
  readonly keySizes: Value;
  /** Additive mask `[sequences, 1, 1, queries, past + queries]` of layers with this sliding window. */
  mask(slidingWindow: number | undefined): Value;
}

/**
 * Declares a group's inputs:
 * - `<name>.tokens` int64 `[sequences]` when decoding, else `[sequences, queries]`
 * - `<name>.past_lengths` int64 `[sequences]`: positions `[0, length)` of the past are real, the rest is ignored
 * - `<name>.past_keys.<layer>`, `<name>.past_values.<layer>` float32 `[sequences, numKvHeads, 1, past, headSize]`,
 *   read in place; memory beyond `past_lengths` must be finite
 *
 * New tokens of a sequence follow its past without a gap, so the mask needs no positions.
 */
export function attentionGroup(
  g: GraphBuilder,
  name: string,
  isDecode: boolean,
  { numLayers, numKvHeads, headSize }: { numLayers: number; numKvHeads: number; headSize: number },
): AttentionGroup {
  const cacheShape = [`${name}.sequences`, numKvHeads, 1, `${name}.past`, headSize];
  const tokenShape = isDecode ? [`${name}.sequences`] : [`${name}.sequences`, `${name}.queries`];
  const tokens = g.input(`${name}.tokens`, "int64", tokenShape);
  const pastLengths = g.input(`${name}.past_lengths`, "int64", [`${name}.sequences`]);
  const layers = Array.from({ length: numLayers }, (_, layer) => ({
    pastKeys: g.input(`${name}.past_keys.${layer}`, "float32", cacheShape),
    pastValues: g.input(`${name}.past_values.${layer}`, "float32", cacheShape),
  }));
  const pastSize = Shape(g, layers[0]?.pastKeys as Value, 3, 4);
  const querySize = isDecode ? g.integers([1]) : Shape(g, tokens, 1, 2);
  const masks = new Map<number | undefined, Value>();
  return {
    name,
    isDecode,
    tokens,
    layers,
    keySizes: Concat(g, [pastSize, querySize], 0),
    mask(slidingWindow) {
      const known = masks.get(slidingWindow);
      if (known) return known;
      const value = buildMask(
        g,
        { pastLengths, pastSize, querySize, sequences: Shape(g, tokens, 0, 1) },
        slidingWindow,
      );
      masks.set(slidingWindow, value);
      return value;
    },
  };
}

interface MaskSizes {
  readonly pastLengths: Value;
  readonly pastSize: Value;
  readonly querySize: Value;
  readonly sequences: Value;
}

function buildMask(g: GraphBuilder, sizes: MaskSizes, slidingWindow: number | undefined): Value {
  const pastIndex = Unsqueeze(g, Range(g, Squeeze(g, sizes.pastSize, [0])), [0, 1]); // [1, 1, past]
  const lengths = Unsqueeze(g, sizes.pastLengths, [1, 2]); // [sequences, 1, 1]
  const newIndex = Range(g, Squeeze(g, sizes.querySize, [0]));
  const query = Unsqueeze(g, newIndex, [0, 2]); // [1, queries, 1]
  const key = Unsqueeze(g, newIndex, [0, 1]); // [1, 1, queries]

  let seesPast = Less(g, pastIndex, lengths);
  let seesNew = Less(g, key, Add(g, query, g.integer(1))); // key <= query
  if (slidingWindow !== undefined) {
    // A query at position p sees positions (p - window, p].
    const window = g.integer(slidingWindow);
    const position = Add(g, lengths, query);
    seesPast = And(g, seesPast, Less(g, Sub(g, position, window), pastIndex));
    seesNew = And(g, seesNew, Less(g, Sub(g, query, window), key));
  }
  const [open, masked] = [g.float(0), g.float(MASKED)];
  const expand = (mask: Value, keys: Value): Value =>
    Expand(g, mask, Concat(g, [sizes.sequences, sizes.querySize, keys], 0));
  const past = expand(Where(g, seesPast, open, masked), sizes.pastSize);
  const fresh = expand(Where(g, seesNew, open, masked), sizes.querySize);
  return Unsqueeze(g, Concat(g, [past, fresh], 2), [1, 2]);
}
