import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";

// Far below any score, and finite, so that products with zero stay numbers.
const HIDDEN = -1e30;

const masks = new WeakMap<GraphBuilder, Map<string, Value>>();

/**
 * Returns the mask that is added to scores `[…, tokens, tokens]`: zero where the column is neither after the row nor
 * `window` or more before it. A graph has one mask for each size.
 */
export function causalMask(g: GraphBuilder, tokens: number, window: number = tokens): Value {
  const known = masks.get(g) ?? new Map<string, Value>();
  masks.set(g, known);
  const name = `causal_mask:${tokens}:${window}`;
  const value = known.get(name) ?? g.weight(name, "float32", [tokens, tokens], () => maskBytes(tokens, window));
  known.set(name, value);
  return value;
}

function maskBytes(tokens: number, window: number): Uint8Array {
  const mask = new Float32Array(tokens * tokens);
  for (let row = 0; row < tokens; row++) {
    mask.fill(HIDDEN, row * tokens + row + 1, (row + 1) * tokens);
    mask.fill(HIDDEN, row * tokens, row * tokens + Math.max(0, row + 1 - window));
  }
  return new Uint8Array(mask.buffer);
}
