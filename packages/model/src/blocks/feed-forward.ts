import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Add, Concat, Gather, Mul, QuickGelu, Split } from "../onnx/operators.ts";
import type { FeedForwardRefs, LayerRefs } from "../weights/model-weights.ts";
import { activation, gatherRows, type Activation } from "./activation.ts";
import type { ExpertDeal } from "./expert-deal.ts";
import { linear } from "./linear.ts";

/** `down(silu(gate(x)) · up(x))`, `x` and result `[tokens, hiddenSize]`. */
export function feedForward(g: GraphBuilder, name: string, x: Activation, refs: FeedForwardRefs): Value {
  const width = refs.gate.weight.shape[0] ?? 0;
  const [gate, up] = Split(g, linear(g, `${name}.gate_up`, x, [refs.gate, refs.up]), [width, width], 1);
  const inner = Mul(g, QuickGelu(g, gate as Value, 1), up as Value);
  return linear(g, `${name}.down`, activation(g, inner, x), [refs.down]);
}

/**
 * A layer's FFN: the shared rows over all tokens, plus each expert's rows over its own tokens. An expert without
 * tokens is skipped: its nodes alone, over no rows, would cost a single sequence a third of its step. A single expert
 * needs no `deal`.
 */
export function expertFeedForward(
  g: GraphBuilder,
  name: string,
  x: Activation,
  refs: Pick<LayerRefs, "shared" | "experts">,
  deal: ExpertDeal | undefined,
): Value {
  x.observe?.(name, x.rows);
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
  const nothing = g.weight(`${name}.nothing`, "float32", [0, hiddenSizeOf(experts)], () => new Uint8Array(0));
  const outputs = experts.map((refs, expert) => {
    const run = (): Value => feedForward(g, `${name}.${expert}`, gatherRows(g, x, deal.tokens[expert] as Value), refs);
    return deal.isActive ? g.ifElse(deal.isActive[expert] as Value, run, () => nothing) : run();
  });
  return Gather(g, Concat(g, outputs, 0), deal.inverse);
}

function hiddenSizeOf(experts: readonly FeedForwardRefs[]): number {
  return experts[0]?.down.weight.shape[0] ?? 0;
}
