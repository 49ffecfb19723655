import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";

/**
 * How the tokens of a step are dealt to experts. The route of a token is the same in every layer, so one deal serves
 * the whole forward pass.
 */
export interface ExpertDeal {
  /** Per expert, int64 `[its tokens]`: which tokens of the step are its own. */
  readonly tokens: readonly Value[];
  /** Per expert, bool `[1]`: whether it has any. `undefined` where all experts run. */
  readonly isActive: readonly Value[] | undefined;
  /** int64 `[tokens]`: where each token's row is in all experts' results, laid end to end. */
  readonly inverse: Value;
}

/**
 * Declares what `dealFeeds` feeds, or `dealToAllFeeds` where all experts run: of each expert `expert_tokens.<i>` int64
 * `[its tokens]` and `is_active.<i>` bool `[1]`, and `inverse` int64 `[tokens]`.
 *
 * @returns `undefined` for a single expert, which needs no deal
 */
export function expertDealInputs(
  g: GraphBuilder,
  numExperts: number,
  { skipsIdle }: { readonly skipsIdle: boolean },
): ExpertDeal | undefined {
  if (numExperts === 1) return undefined;
  const experts = Array.from({ length: numExperts }, (_, expert) => expert);
  return {
    tokens: experts.map((expert) => g.input(`expert_tokens.${expert}`, "int64", [`expert_tokens_${expert}`])),
    isActive: skipsIdle ? experts.map((expert) => g.input(`is_active.${expert}`, "bool", [1])) : undefined,
    inverse: g.input("inverse", "int64", ["tokens"]),
  };
}
