// A layer of a dense model, and graphs that measure its activations.

import { encodeFloats, type LayerRefs, type Model, type ModelConfig } from "@readme-moe/model";
import type { DenseDown, LayerExperts, Part } from "../experts/select.ts";
import { GraphBuilder, type Graph, type Value } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import { matrix } from "../linear-algebra/matrix.ts";
import { deterministicGemm } from "../linear-algebra/deterministic-gemm.ts";

/** One layer of a dense model. */
export interface LayerSource {
  readonly model: Pick<Model, "config" | "weights">;
  readonly index: number;
  readonly config: ModelConfig;
  readonly refs: LayerRefs;
  readonly ffn: LayerRefs["experts"][number];
}

/** Finds a layer of a dense model. */
export function layerSource(model: Pick<Model, "config" | "weights">, index: number): LayerSource {
  const { config, weights } = model;
  const refs = weights.layers[index];
  const ffn = refs?.experts[0];
  if (!refs || !ffn) throw new RangeError(`Expected a layer of a dense model, got layer ${index}`);
  return { model, index, config, refs, ffn };
}

export async function readDense({ ffn: { down } }: LayerSource): Promise<DenseDown> {
  const { store, name, shape } = down.weight;
  const [rows = 0, columns = 0] = shape;
  const bias = down.bias && (await down.bias.store.readFloats(down.bias.name));
  return { weight: matrix(rows, columns, await store.readFloats(name)), bias };
}

const { Add, Gather, Gemm, Less, Slice, TopK, Transpose, Where } = operators;

/**
 * Divides the rows of a Gram matrix. It is symmetric: of rows `[from, to)` only columns from `from` are computed, which
 * saves 46 % of the largest product.
 */
export function gramStripes(numNeurons: number): readonly { readonly from: number; readonly to: number }[] {
  const height = Math.max(64, Math.ceil(numNeurons / 12));
  const count = Math.ceil(numNeurons / height);
  return Array.from({ length: count }, (_, i) => ({ from: i * height, to: Math.min(numNeurons, (i + 1) * height) }));
}

/**
 * Builds the graph of sums over tokens of neurons times neurons, `gram.<i>` (see `gramStripes`). Input: `neurons`
 * `[tokens, intermediateSize]`.
 */
export function gramGraph(source: LayerSource): Graph {
  const { g, turned } = neuronsGraph("gram", source);
  gramOutputs(g, turned, source.config.intermediateSize);
  return g.build();
}

/**
 * Builds the graph of a regression. Inputs: `neurons`, and their targets, `target` `[tokens, hiddenSize]`. Outputs:
 * those of `gramGraph`, and sums over tokens of neurons times targets, `cross` `[intermediateSize, hiddenSize]`.
 */
export function momentsGraph(source: LayerSource): Graph {
  const { g, turned } = neuronsGraph("moments", source);
  const { hiddenSize, intermediateSize } = source.config;
  gramOutputs(g, turned, intermediateSize);
  const target = g.input("target", "float32", ["tokens", hiddenSize]);
  g.output("cross", Gemm(g, turned, target, { transB: false }), "float32", [intermediateSize, hiddenSize]);
  return g.build();
}

/** Number of rows that an expert's graph takes at most: its products are then divided by rows, see `Gemm`. */
export function rowsOfExpert({ config }: LayerSource): number {
  return Math.min(512, config.hiddenSize);
}

/**
 * Builds the graph of one expert's last product. Input: `neurons`, of at most `rowsOfExpert`. Output: `output`
 * `[hiddenSize, tokens]`, without the biases.
 */
export function expertGraph(source: LayerSource, { shared, experts }: LayerExperts, expert: number): Graph {
  const { g, turned } = neuronsGraph("expert", source);
  const { hiddenSize } = source.config;
  const outputs = [shared, experts[expert]]
    .filter((part): part is Part => part !== undefined && part.neurons.length > 0)
    .map(({ neurons, down }, index) => {
      const weight = g.weight(`${index}.down`, "float32", [hiddenSize, neurons.length], () =>
        encodeFloats(down, "F32"),
      );
      return Gemm(g, weight, Gather(g, turned, g.integers(Array.from(neurons))), { transB: false });
    });
  g.output(
    "output",
    outputs.reduce((sum, output) => Add(g, sum, output)),
    "float32",
    [hiddenSize, "tokens"],
  );
  return g.build();
}

/** Ranks of the official code, as shares of an expert's size: a neuron counts once for each rank that it is above. */
const RANKS = [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5] as const;

/**
 * Builds the graph of the scores that the paper's router learns, as in its official code: which share of a token's most
 * active neurons each expert has, without shared ones. Activations count with their sign. Input: `neurons` of the dense
 * model. Output: `scores` `[tokens, experts]` in about [0, 1].
 */
export function overlapGraph(source: LayerSource, { experts }: LayerExperts): Graph {
  const { g, neurons, turned } = neuronsGraph("overlap", source);
  const { intermediateSize } = source.config;
  const size = experts[0]?.neurons.length ?? 0;
  const [largest] = TopK(g, neurons, g.integers([size]));
  const ranked = Transpose(g, largest, [1, 0]);
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
    return encodeFloats(rows, "F32");
  });
  const scores = Gemm(g, graded, masks, { transA: true });
  g.output("scores", scores, "float32", ["tokens", experts.length]);
  return g.build();
}

/** Begins a graph whose input is the neurons' activations. Products along tokens read rows of `turned`. */
function neuronsGraph(name: string, { config }: LayerSource) {
  const g = new GraphBuilder(name);
  const neurons = g.input("neurons", "float32", ["tokens", config.intermediateSize]);
  return { g, neurons, turned: Transpose(g, neurons, [1, 0]) };
}

function gramOutputs(g: GraphBuilder, turned: Value, end: number): void {
  gramStripes(end).forEach(({ from, to }, index) => {
    const [own, others] = [Slice(g, turned, { start: from, end: to }), Slice(g, turned, { start: from, end })];
    // Batches have more tokens than a piece of a sum, or their sums are one piece in either way.
    const size = { rows: to - from, columns: end - from, inner: Infinity };
    const stripe = deterministicGemm(g, own, others, { size });
    g.output(`gram.${index}`, stripe, "float32", [to - from, end - from]);
  });
}
