// One layer of one expert as a graph that takes its weights as inputs, so that one session serves all units of a size,
// and loading a unit is reading its bytes.

import {
  feedForward,
  gatherRows,
  GraphBuilder,
  type Arithmetic,
  type ChannelScales,
  type Constant,
  type Graph,
  type Model,
} from "@readme-moe/model";

type LayerRefs = Model["weights"]["layers"][number];

/** Weights of a unit, in the order in which they lie in memory. */
export interface Unit {
  readonly graph: Graph;
  readonly weights: readonly Constant[];
}

const PREFIX = "unit.";

/**
 * Inputs: `rows` uint8 `[tokens, hiddenSize]` and `row_max` float32 `[tokens, 1]` of all tokens, `tokens` int64 `[own]`: the
 * expert's, and the unit's weights by their names. Output: `out` float32 `[own, hiddenSize]`.
 *
 * @param channelScales - of the layer, see `ffnChannelScales`
 */
export function unitOf(
  layer: LayerRefs,
  expert: number,
  hiddenSize: number,
  arithmetic: Arithmetic,
  channelScales: ChannelScales | undefined,
): Unit {
  const g = new GraphBuilder("expert");
  const input = {
    ...arithmetic,
    rows: g.input("rows", "uint8", ["tokens", hiddenSize]),
    rowMax: g.input("row_max", "float32", ["tokens", 1]),
    channelScales,
  };
  const own = gatherRows(g, input, g.input("tokens", "int64", ["own"]));
  const refs = layer.experts[expert] as LayerRefs["experts"][number];
  g.output("out", feedForward(g, "unit", own, refs), "float32", ["own", hiddenSize]);
  const graph = g.build();
  const weights = graph.constants.filter(({ name }) => name.startsWith(PREFIX));
  return {
    graph: {
      ...graph,
      inputs: [...graph.inputs, ...weights.map(({ name, type, shape }) => ({ name, type, shape }))],
      constants: graph.constants.filter(({ name }) => !name.startsWith(PREFIX)),
    },
    weights,
  };
}
