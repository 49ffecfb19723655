// A router's choice of experts in float64, straight from its definition: softmax of all logits, the largest first.

/** One of the experts that a token uses. */
export interface PlainChoice {
  readonly expert: number;
  /** Factor of the expert's output. */
  readonly weight: number;
}

/**
 * Chooses a token's experts, the most probable first and the lower index first among equals.
 *
 * @param logits - of the router, `[experts]`
 */
export function plainChoices(
  logits: ArrayLike<number>,
  expertsPerToken: number,
  normalizesWeights: boolean,
): readonly PlainChoice[] {
  const raised = Array.from(logits, (logit) => Math.exp(logit - Math.max(...Array.from(logits))));
  const sum = raised.reduce((total, value) => total + value, 0);
  const chosen = raised
    .map((value, expert) => ({ expert, weight: value / sum }))
    .sort((a, b) => b.weight - a.weight || a.expert - b.expert)
    .slice(0, expertsPerToken);
  if (!normalizesWeights) return chosen;
  const ofChosen = chosen.reduce((total, { weight }) => total + weight, 0);
  return chosen.map(({ expert, weight }) => ({ expert, weight: weight / ofChosen }));
}
