// Sequences that attend together. Linear layers see the step's tokens as one flat list; attention needs them as
// [sequence, query], with each sequence's past beside them. A step has several groups, so that chunks of prefill and
// many decoding sequences share one run without padding each other.

import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import {
  Add,
  And,
  Concat,
  Expand,
  Less,
  Range,
  Shape,
  SliceTo,
  Squeeze,
  Sub,
  Unsqueeze,
  Where,
} from "../onnx/operators.ts";

// Far below any score, and still finite after one is added.
const MASKED = -1e30;

export interface AttentionGroup {
  readonly name: string;
  /** Every sequence has exactly one query (decode); else queries are padded to the longest chunk. */
  readonly isDecode: boolean;
  /** int64 `[sequences]` or `[sequences, queries]`: where each query stands in the flat list; padding repeats any token. */
  readonly tokens: Value;
  /** `undefined` when no sequence of the group has a past. */
  readonly past: AttentionPast | undefined;
  /** Additive mask `[sequences, 1, 1, queries, past + queries]` of layers with this sliding window. */
  mask(slidingWindow: number | undefined): Value;
}

interface AttentionPast {
  /** Of a layer, `[sequences, numKvHeads, 1, past, headSize]`. */
  keys(layer: number): Value;
  values(layer: number): Value;
  /** int64 `[2]`: past keys and new keys, the sizes that scores are split at. */
  readonly keySizes: Value;
}

export interface GroupKind {
  /** Every sequence has exactly one query. */
  readonly isDecode: boolean;
  /** Sequences may have a past; those that do not decode are one then. */
  readonly hasPast: boolean;
}

/**
 * Declares a group's inputs:
 * - `<name>.tokens` int64 `[sequences]` when decoding, else `[sequences, queries]`
 * and, when its sequences may have a past,
 * - `<name>.past_lengths` int64 `[sequences]`: positions `[0, length)` of the past are real, the rest is ignored
 * - `<name>.past_keys.<layer>`, `<name>.past_values.<layer>` float32 `[sequences, numKvHeads, 1, past, headSize]`,
 *   read in place; memory beyond `past_lengths` must be finite
 *
 * New tokens of a sequence follow its past without a gap, so the mask needs no positions.
 *
 * Where many queries attend, to what is real of one slot, that is copied out of it first: the copy takes little beside the
 * products that a half-filled slot would take for nothing.
 */
export function attentionGroup(
  g: GraphBuilder,
  name: string,
  { isDecode, hasPast }: GroupKind,
  { numLayers, numKvHeads, headSize }: { numLayers: number; numKvHeads: number; headSize: number },
): AttentionGroup {
  const tokenShape = isDecode ? [`${name}.sequences`] : [`${name}.sequences`, `${name}.queries`];
  const tokens = g.input(`${name}.tokens`, "int64", tokenShape);
  const querySize = isDecode ? g.integers([1]) : Shape(g, tokens, 1, 2);
  const pastLengths = hasPast ? g.input(`${name}.past_lengths`, "int64", [`${name}.sequences`]) : undefined;
  const cacheShape = [`${name}.sequences`, numKvHeads, 1, `${name}.past`, headSize];
  const pastInputs = (part: string): readonly Value[] =>
    Array.from({ length: hasPast ? numLayers : 0 }, (_, layer) =>
      g.input(`${name}.past_${part}.${layer}`, "float32", cacheShape),
    );
  const [keys, values] = [pastInputs("keys"), pastInputs("values")];
  const pastSize = isDecode ? keys[0] && Shape(g, keys[0], 3, 4) : pastLengths;
  const filled = (slots: Value): Value => (isDecode || !pastLengths ? slots : SliceTo(g, slots, pastLengths, 3));
  const masks = new Map<number | undefined, Value>();
  return {
    name,
    isDecode,
    tokens,
    past: pastSize && {
      keys: (layer) => filled(keys[layer] as Value),
      values: (layer) => filled(values[layer] as Value),
      keySizes: Concat(g, [pastSize, querySize], 0),
    },
    mask(slidingWindow) {
      const known = masks.get(slidingWindow);
      if (known) return known;
      const past = pastSize && pastLengths ? { size: pastSize, lengths: pastLengths } : undefined;
      const value = buildMask(g, { past, querySize, sequences: Shape(g, tokens, 0, 1) }, slidingWindow);
      masks.set(slidingWindow, value);
      return value;
    },
  };
}

interface MaskSizes {
  readonly past: { readonly size: Value; readonly lengths: Value } | undefined;
  readonly querySize: Value;
  readonly sequences: Value;
}

function buildMask(
  g: GraphBuilder,
  { past, querySize, sequences }: MaskSizes,
  slidingWindow: number | undefined,
): Value {
  const newIndex = Range(g, Squeeze(g, querySize, [0]));
  const query = Unsqueeze(g, newIndex, [0, 2]); // [1, queries, 1]
  const key = Unsqueeze(g, newIndex, [0, 1]); // [1, 1, queries]
  // A query at position p sees positions (p - window, p].
  const window = slidingWindow === undefined ? undefined : g.integer(slidingWindow);
  const [open, masked] = [g.float(0), g.float(MASKED)];
  const expand = (sees: Value, keySize: Value): Value =>
    Expand(g, Where(g, sees, open, masked), Concat(g, [sequences, querySize, keySize], 0));

  let seesNew = Less(g, key, Add(g, query, g.integer(1))); // key <= query
  if (window) seesNew = And(g, seesNew, Less(g, Sub(g, query, window), key));
  const parts = [expand(seesNew, querySize)];
  if (past) {
    const index = Unsqueeze(g, Range(g, Squeeze(g, past.size, [0])), [0, 1]); // [1, 1, past]
    const lengths = Unsqueeze(g, past.lengths, [1, 2]); // [sequences, 1, 1]
    let seesPast = Less(g, index, lengths);
    if (window) seesPast = And(g, seesPast, Less(g, Sub(g, Add(g, lengths, query), window), index));
    parts.unshift(expand(seesPast, past.size));
  }
  return Unsqueeze(g, Concat(g, parts, 2), [1, 2]);
}
