import type { FeedForwardRefs, LinearRefs, Model } from "@readme-moe/model";

/**
 * The dense model that a model with experts was made from, as far as its shape goes: the config tells how wide its FFN was,
 * and all the rest is the same. To be measured, not run.
 */
export function denseBase(model: Model): Model {
  const { config, weights } = model;
  const { intermediateSize, hiddenSize } = config;
  const layers = weights.layers.map((layer) => {
    const [expert] = layer.experts;
    return { ...layer, shared: undefined, experts: expert ? [widened(expert, intermediateSize, hiddenSize)] : [] };
  });
  const everyLayer = (size: number): readonly number[] => layers.map(() => size);
  return {
    ...model,
    kind: "dense",
    experts: { names: ["dense"], expertSizes: everyLayer(intermediateSize), sharedSizes: everyLayer(0) },
    weights: { ...weights, layers },
    router: undefined,
  };
}

function widened({ gate, up, down }: FeedForwardRefs, rows: number, hiddenSize: number): FeedForwardRefs {
  return {
    gate: ofShape(gate, rows, hiddenSize),
    up: ofShape(up, rows, hiddenSize),
    down: ofShape(down, hiddenSize, rows),
  };
}

function ofShape({ weight, bias }: LinearRefs, out: number, input: number): LinearRefs {
  return { weight: { ...weight, shape: [out, input] }, bias: bias && { ...bias, shape: [out] } };
}
