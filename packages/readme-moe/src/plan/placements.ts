// Counts the memory of a model for each way to hold it.

import {
  expertLayout,
  kvPrecisionOf,
  mixtureLayout,
  planModelMemory,
  processSizes,
  type ProcessSizes,
  resolveEngineOptions,
  totalBytes,
  weightSizes,
  type WeightSizes,
} from "@readme-moe/engine";
import { kvBytesPerToken, precisionOf, wholeBlocks } from "@readme-moe/kernel";
import type { FeedForwardRefs, LinearRefs, Model, Precision } from "@readme-moe/model";
import type { Placement } from "./plan-memory.ts";

/** Sequences that run at once. */
export interface Load {
  readonly sequences: number;
  /** Tokens of each sequence, prompt and completion. */
  readonly contextTokens: number;
  /** Memory of the model's draft head. @default 0 */
  readonly draftBytes?: number | undefined;
}

/** Bytes besides weights. */
interface OtherBytes extends ProcessSizes {
  readonly keysAndValues: number;
  readonly prefixCache: number;
  /** Draft head with its keys and values; 0 without one. */
  readonly draftHead: number;
}

/** A placement with its parts. */
export interface DescribedPlacement extends Placement {
  readonly weights: WeightSizes;
  readonly other: OtherBytes;
  /** Share of the experts' weights that a token reads. */
  readonly usedShare: number;
  /** The engine's option for this load. */
  readonly kvCacheBytes: number;
}

const PRECISIONS: readonly Precision[] = ["int8", "int4", "fp32"];

/** Lists the precisions of a model, its default first. */
function precisionsOf(model: Model): readonly Precision[] {
  // Encoders have 8 bits where others have 4.
  if (model.config.encoder) return precisionOf(model) === "file" ? ["file", "int8", "fp32"] : ["int8", "fp32"];
  return precisionOf(model) === "file" ? ["file", ...PRECISIONS] : PRECISIONS;
}

/** Lists the placements of a model, and beside Read-ME's experts those of the dense model that they were made from. */
export function placementsOf(model: Model, load: Load): readonly DescribedPlacement[] {
  const own = model.config.mixture ? "mixture" : model.experts.names.length > 1 ? "read-me" : "dense";
  const all = precisionsOf(model).map((precision) => placement(own, model, precision, load));
  if (own === "mixture") return [...all, streamed(model, placement(own, model, precisionOf(model), load))];
  if (own !== "read-me") return all;
  const dense = denseBase(model);
  return [
    ...all,
    streamed(model, placement(own, model, "int8", load)),
    ...PRECISIONS.map((precision) => placement("dense", dense, precision, load)),
  ];
}

function placement(name: Placement["model"], model: Model, precision: Precision, load: Load): DescribedPlacement {
  const weights = weightSizes(model, precision);
  const kvCacheBytes = kvBytesOf(model, load, precision);
  const options = resolveEngineOptions({ precision, kvCacheBytes, maxNumSeqs: load.sequences });
  const planned = planModelMemory(model, options, { weights });
  const other: OtherBytes = {
    ...processSizes(model, options),
    keysAndValues: planned.kvCacheBytes,
    prefixCache: planned.prefixCacheBytes,
    draftHead: load.draftBytes ?? 0,
  };
  return {
    model: name,
    precision,
    weights,
    other,
    usedShare: usedShareOf(model),
    kvCacheBytes,
    weightBytes: totalBytes(weights),
    otherBytes: totalBytes(other),
  };
}

function usedShareOf({ config: { mixture }, experts }: Model): number {
  return mixture ? mixture.expertsPerToken / mixture.numExperts : 1 / experts.names.length;
}

/** Returns the same placement with streamed experts. */
function streamed(model: Model, whole: DescribedPlacement): DescribedPlacement {
  const { weightBytes, weights, precision } = whole;
  const resident = { ...whole, weightBytes: weightBytes - weights.experts };
  const { mixture } = model.config;
  if (!mixture) return { ...resident, streamed: expertLayout(model, precision) };
  return { ...resident, streamed: mixtureLayout(model, precision), expertsPerToken: mixture.expertsPerToken };
}

/** Counts keys and values of all sequences. The engine takes a quarter more, for the prefix cache. */
function kvBytesOf({ config }: Model, { sequences, contextTokens }: Load, precision: Precision): number {
  const blocks = wholeBlocks(Math.min(contextTokens, config.contextTokens));
  return sequences * blocks * kvBytesPerToken(config, kvPrecisionOf(precision));
}

/**
 * Describes the shape of the dense model that a model with experts was made from: the config has the width of its FFN,
 * and everything else is the same. Such a model can be measured, not run.
 */
function denseBase(model: Model): Model {
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
