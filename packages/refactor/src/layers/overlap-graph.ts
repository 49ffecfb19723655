import { GraphBuilder, operators, type Graph, type Value } from "@readme-moe/onnx";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { activations } from "./layer-graphs.ts";
import type { LayerSource } from "./layer-source.ts";

const { Add, Gather, Gemm, Less, TopK, Transpose, Where } = operators;

/** Of the official code: a token's neurons count once for each of these ranks, as shares of an expert's size, that they are above. */
const RANKS = [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5] as const;

/**
 * The scores that the paper's router learns from, as its official code has them: which share of the neurons that are most active each
 * expert has, those that all share left out. Activations count with their sign. Input: `attended` `[tokens, hiddenSize]`, of the dense model.
 * Output: `scores` `[tokens, experts]` in about [0, 1].
 */
export function overlapGraph(source: LayerSource, { experts }: LayerExperts): Graph {
  const { hiddenSize, intermediateSize } = source.config;
  const g = new GraphBuilder("overlap");
  const neurons = activations(g, source, g.input("attended", "float32", ["tokens", hiddenSize]));
  const size = experts[0]?.neurons.length ?? 0;
  const [largest] = TopK(g, neurons, g.integers([size]));
  const [ranked, turned] = [Transpose(g, largest, [1, 0]), Transpose(g, neurons, [1, 0])];
  const grades = RANKS.map((share): Value => {
    const threshold = Gather(g, ranked, g.integers([share === 1 ? size - 1 : Math.floor(share * size)]));
    return Where(g, Less(g, threshold, turned), g.float(1 / (3 * size)), g.float(0));
  });
  const graded = grades.reduce((sum, grade) => Add(g, sum, grade));
  const masks = g.weight("masks", "float32", [experts.length, intermediateSize], () => {
    const rows = new Float32Array(experts.length * intermediateSize);
    experts.forEach(({ neurons: own }, expert) =>
      own.forEach((neuron) => (rows[expert * intermediateSize + neuron] = 1)),
    );
    return new Uint8Array(rows.buffer);
  });
  const scores = Gemm(g, masks, graded, undefined, { transB: false });
  g.output("scores", Transpose(g, scores, [1, 0]), "float32", ["tokens", experts.length]);
  return g.build();
}
