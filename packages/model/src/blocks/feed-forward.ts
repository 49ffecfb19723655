import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Add, Concat, Gather, Mul, QuickGelu, Split } from "../onnx/operators.ts";
import type { FeedForwardRefs, LayerRefs } from "../weights/model-weights.ts";
import { activation, gatherRows, splitRows, type Activation } from "./activation.ts";
import { linear } from "./linear.ts";

/** `down(silu(gate(x)) · up(x))`, `x` and result `[tokens, hiddenSize]`. */
function feedForward(g: GraphBuilder, name: string, x: Activation, refs: FeedForwardRefs): Value {
  const width = refs.gate.weight.shape[0] ?? 0;
  const [gate, up] = Split(g, linear(g, `${name}.gate_up`, x, [refs.gate, refs.up]), [width, width], 1);
  const inner = Mul(g, QuickGelu(g, gate as Value, 1), up as Value);
  return linear(g, `${name}.down`, activation(g, inner, x.precision), [refs.down]);
}

/**
 * How the tokens of a step are dealt to experts. The route of a token is the same in every layer, so one
 * permutation serves the whole forward pass.
 */
export interface ExpertDeal {
  /** int64 `[tokens]`: the step's tokens in the order of their experts. */
  readonly permutation: Value;
  /** int64 `[tokens]`: undoes `permutation`. */
  readonly inverse: Value;
  /** int64 `[numExperts]`: tokens of each expert; they add up to `tokens`. */
  readonly counts: Value;
}

/**
 * A layer's FFN: the shared rows over all tokens, plus each expert's rows over its own tokens. An expert without
 * tokens gets zero rows, which cost almost nothing. A single expert needs no `deal`.
 */
export function expertFeedForward(
  g: GraphBuilder,
  name: string,
  x: Activation,
  refs: Pick<LayerRefs, "shared" | "experts">,
  deal: ExpertDeal | undefined,
): Value {
  const routed = deal ? dealtExperts(g, name, x, refs.experts, deal) : singleExpert(g, name, x, refs.experts);
  return refs.shared ? Add(g, feedForward(g, `${name}.shared`, x, refs.shared), routed) : routed;
}

function singleExpert(g: GraphBuilder, name: string, x: Activation, experts: readonly FeedForwardRefs[]): Value {
  const [only] = experts;
  if (experts.length !== 1 || !only) throw new TypeError(`Expected a deal of tokens to ${experts.length} experts`);
  return feedForward(g, name, x, only);
}

function dealtExperts(
  g: GraphBuilder,
  name: string,
  x: Activation,
  experts: readonly FeedForwardRefs[],
  deal: ExpertDeal,
): Value {
  const shares = splitRows(g, gatherRows(g, x, deal.permutation), deal.counts, experts.length);
  const outputs = experts.map((refs, expert) =>
    feedForward(g, `${name}.${expert}`, shares[expert] as Activation, refs),
  );
  return Gather(g, Concat(g, outputs, 0), deal.inverse);
}
