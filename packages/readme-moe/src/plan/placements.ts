// What a model needs in memory, by the ways to have it there.

import {
  expertLayout,
  kvPrecisionOf,
  kvSizes,
  resolveEngineOptions,
  weightSizes,
  type WeightSizes,
} from "@readme-moe/engine";
import { kvBytesPerToken, wholeBlocks } from "@readme-moe/kernel";
import type { Model, Precision } from "@readme-moe/model";
import { denseBase } from "./dense-base.ts";
import type { Placement } from "./plan-memory.ts";

/** What is to run at once. */
export interface Load {
  readonly sequences: number;
  /** Of each, prompt and completion. */
  readonly contextTokens: number;
}

/** Bytes besides weights. */
interface OtherBytes {
  /** Node and the inference runtime, without a model. */
  readonly process: number;
  readonly tokenizer: number;
  /** Of the largest step. */
  readonly step: number;
  /** What is not collected yet or lies between pieces in use, with many sequences. */
  readonly slack: number;
  readonly keysAndValues: number;
  readonly prefixCache: number;
}

/** A placement with what it is made of. */
export interface DescribedPlacement extends Placement {
  readonly weights: WeightSizes;
  readonly other: OtherBytes;
  /** The engine's option for as many sequences. */
  readonly kvCacheBytes: number;
}

/*
 * Measured as the resident memory of an engine's process, Linux x64, Node 20, two threads, opened from the cache, less
 * the weights by `weightSizes`: the pocket model in int8, 83 MB. SmolLM2 has 45,000 tokens more and takes 3 to 10 MB more than that.
 */
const PROCESS_BYTES = 83e6;
const TOKEN_BYTES = 220;
// SmolLM2 under load, 32 and 48 sequences, experts within a quarter, half and three quarters of their bytes: 10 to 30 MB
// more than what can be counted.
const SLACK_BYTES_PER_SEQUENCE = 1e6;

/** Of a dense model, or of one with experts and the dense one that it was made from. */
export function placementsOf(model: Model, load: Load): readonly DescribedPlacement[] {
  const own = model.experts.names.length > 1 ? "read-me" : "dense";
  const all = PRECISIONS.map((precision) => placement(own, model, precision, load));
  if (own === "dense") return all;
  const dense = denseBase(model);
  return [
    ...all,
    placement(own, model, "int8", load, true),
    ...PRECISIONS.map((precision) => placement("dense", dense, precision, load)),
  ];
}

/** For keys and values of all sequences; the engine takes a quarter more to keep prompts' beginnings. */
function kvBytesOf(model: Model, { sequences, contextTokens }: Load, precision: Precision): number {
  const { config } = model;
  return (
    sequences *
    wholeBlocks(Math.min(contextTokens, config.contextTokens)) *
    kvBytesPerToken(config, kvPrecisionOf(precision))
  );
}

const PRECISIONS: readonly Precision[] = ["int8", "int4", "fp32"];

function placement(
  name: Placement["model"],
  model: Model,
  precision: Precision,
  load: Load,
  isStreamed = false,
): DescribedPlacement {
  const weights = weightSizes(model, precision);
  const other = otherBytes(model, precision, load);
  const inMemory = sum(weights) - (isStreamed ? weights.experts : 0);
  return {
    model: name,
    precision,
    weights,
    other,
    kvCacheBytes: kvBytesOf(model, load, precision),
    weightBytes: inMemory,
    otherBytes: sum(other),
    streamed: isStreamed ? expertLayout(model, precision) : undefined,
  };
}

function otherBytes(model: Model, precision: Precision, load: Load): OtherBytes {
  const { config } = model;
  const kvCacheBytes = kvBytesOf(model, load, precision);
  const options = resolveEngineOptions({ kvCacheBytes, maxNumSeqs: load.sequences });
  const kvPrecision = kvPrecisionOf(precision);
  const { capacityTokens, prefixCacheBytes } = kvSizes(options, config, kvPrecision);
  return {
    process: PROCESS_BYTES,
    tokenizer: config.vocabSize * TOKEN_BYTES,
    step: options.maxNumBatchedTokens * stepBytesPerToken(model) + logitBytes(model, load),
    slack: (load.sequences - 1) * SLACK_BYTES_PER_SEQUENCE,
    keysAndValues: capacityTokens * kvBytesPerToken(config, kvPrecision),
    prefixCache: prefixCacheBytes,
  };
}

/** Of a row in the kernel: the stream and what is added to it, queries, keys and values in float32; inputs of products rounded, too. */
function stepBytesPerToken({ config, experts }: Model): number {
  const { hiddenSize, numHeads, numKvHeads, headSize } = config;
  const ffnSize = Math.max(...experts.expertSizes.map((size, layer) => size + (experts.sharedSizes[layer] ?? 0)));
  const querySize = numHeads * headSize;
  return 4 * (3 * hiddenSize + 2 * querySize + 2 * numKvHeads * headSize) + 7.5 * (hiddenSize + querySize + ffnSize);
}

/** Of a row for each sequence, and of what ranking makes of it. Float32. */
function logitBytes({ config }: Model, { sequences }: Load): number {
  return 2 * 4 * sequences * config.vocabSize;
}

function sum(sizes: WeightSizes | OtherBytes): number {
  return Object.values(sizes).reduce((total: number, bytes: number) => total + bytes, 0);
}
