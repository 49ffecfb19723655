// Layers whose experts' weights come from outside. The same operators as in the whole graph, so that every bit is the
// same; loading an expert is reading its bytes.

import type { Arithmetic, Constant, Graph } from "@readme-moe/model";
import { decoderSegment, type DecoderSource, type LayerRange } from "../decoder-graph.ts";

const EXPERT_WEIGHT = /^layers\.\d+\.ffn\.(\d+)\./;
const FFN_WEIGHT = /^layers\.\d+\.ffn\./;
// Tables that all segments have in common, megabytes where contexts are long.
const SHARED = /^rope\./;

/** Layers as a graph, and the constants that they share with other segments: inputs of the graph, by their names. */
export interface StreamedSegment {
  readonly graph: Graph;
  readonly shared: readonly Constant[];
}

/**
 * `decoderSegment`, with the weights of experts as inputs, by their names. An expert that has no tokens in a run is
 * skipped, and may be fed any memory of the right shape.
 */
export function streamedSegment(model: DecoderSource, range: LayerRange, arithmetic: Arithmetic): StreamedSegment {
  const graph = decoderSegment(model, range, arithmetic);
  const outside = graph.constants.filter(isOutside);
  return {
    graph: {
      ...graph,
      name: `layers ${range.from} to ${range.to - 1}`,
      inputs: [...graph.inputs, ...outside.map(({ name, type, shape }) => ({ name, type, shape }))],
      constants: graph.constants.filter((constant) => !isOutside(constant)),
    },
    shared: outside.filter(({ name }) => SHARED.test(name)),
  };
}

function isOutside({ name }: Constant): boolean {
  return EXPERT_WEIGHT.test(name) || SHARED.test(name);
}

/** Weights of each expert of a layer, each expert's in the same order, with the bytes that the whole graph has. */
export function expertWeights(
  model: DecoderSource,
  layer: number,
  arithmetic: Arithmetic,
): readonly (readonly Constant[])[] {
  const { constants } = decoderSegment(model, { from: layer, to: layer + 1 }, arithmetic);
  // The FFN of a dense model has no numbers.
  if (model.experts.names.length === 1) return [constants.filter(({ name }) => FFN_WEIGHT.test(name))];
  return model.experts.names.map((_, expert) =>
    constants.filter(({ name }) => EXPERT_WEIGHT.exec(name)?.[1] === String(expert)),
  );
}
