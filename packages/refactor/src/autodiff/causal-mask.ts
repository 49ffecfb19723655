import type { GraphBuilder, Value } from "@readme-moe/model";

// Far below any score, and finite, so that its products with zero stay numbers.
const HIDDEN = -1e30;

const masks = new WeakMap<GraphBuilder, Map<number, Value>>();

/** What is added to scores `[…, tokens, tokens]`: zero where the column is not after the row. One per graph and size. */
export function causalMask(g: GraphBuilder, tokens: number): Value {
  const known = masks.get(g) ?? new Map<number, Value>();
  masks.set(g, known);
  const value =
    known.get(tokens) ?? g.weight(`causal_mask:${tokens}`, "float32", [tokens, tokens], () => bytes(tokens));
  known.set(tokens, value);
  return value;
}

function bytes(tokens: number): Uint8Array {
  const mask = new Float32Array(tokens * tokens);
  for (let row = 0; row < tokens; row++) mask.fill(HIDDEN, row * tokens + row + 1, (row + 1) * tokens);
  return new Uint8Array(mask.buffer);
}
