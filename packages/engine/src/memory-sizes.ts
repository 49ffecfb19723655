// Sizes of keys and values, and of a model's weights, computed from descriptions without reading any file.

import {
  describeModel,
  describeRouter,
  expertUnits,
  headProductsOf,
  mixtureTensorsOf,
  kvBytesPerToken,
  type KvPrecision,
  type LayerDescription,
  layOut,
  type PackedTensor,
  precisionOf,
  stateBytes,
  STATES_OF_SLOT,
  wholeBlocks,
} from "@readme-moe/kernel";
import { type InputStatistics, longestSequence, type Model, type ModelConfig, type Precision } from "@readme-moe/model";
import type { ExpertLayout } from "@readme-moe/core";
import type { ResolvedEngineOptions } from "./engine-options.ts";
import { type MemoryNeeds, type MemoryPlan, planEngineMemory } from "./memory-plan.ts";

/**
 * Resolves the number type of keys and values: the given one, else float32 with float32 weights, else half precision.
 */
export function kvPrecisionOf(precision: Precision = "fp32", asked?: KvPrecision): KvPrecision {
  return asked ?? (precision === "fp32" ? "fp32" : "fp16");
}

/** Largest default numbers of tokens of a step: with all experts in memory, with half of a mixture's or fewer. */
const [STEP_TOKENS, MOST_STEP_TOKENS] = [512, 2048];

/** Options with the sizes of steps that suit a model. */
export interface SizedOptions extends ResolvedEngineOptions {
  readonly maxNumBatchedTokens: number;
  /** Most tokens of one prompt in a step, a multiple of `chunkTokens`. */
  readonly promptTokens: number;
}

/**
 * Adapts options to a model. A mixture whose experts are not all in memory reads nearly all of them for a chunk of a
 * prompt, so more chunks run together the more of them are read. Texts of an encoder run whole, in the order of their
 * arrival, and nothing of them is used twice.
 *
 * @param expertBytes - bytes of all experts
 */
export function optionsFor(
  { encoder, mixture, contextTokens }: Pick<ModelConfig, "encoder" | "mixture" | "contextTokens">,
  options: ResolvedEngineOptions,
  expertBytes: number,
): SizedOptions {
  const missingShare = mixture ? Math.max(0, 1 - (options.expertCacheBytes ?? Infinity) / expertBytes) : 0;
  const together = Math.max(STEP_TOKENS, Math.floor(Math.min(1, 2 * missingShare) * MOST_STEP_TOKENS));
  const step = options.maxNumBatchedTokens ?? Math.max(together, options.chunkTokens);
  if (!encoder) {
    const chunks = missingShare > 0 ? Math.floor(step / options.chunkTokens) : 1;
    return { ...options, maxNumBatchedTokens: step, promptTokens: chunks * options.chunkTokens };
  }
  const chunkTokens = wholeBlocks(options.contextTokens ?? contextTokens);
  return {
    ...options,
    chunkTokens,
    promptTokens: chunkTokens,
    maxNumBatchedTokens: Math.max(chunkTokens, step),
    scheduler: typeof options.scheduler === "string" ? "fcfs" : options.scheduler,
    prefixCacheBytes: 0,
    prefixDiskBytes: 0,
  };
}

/** Bytes that a plan of memory depends on, beside the model. */
export interface PlannedMemory {
  /** Memory that the engine's process can take. @default unknown: a plan that is the same on all machines */
  readonly freeBytes?: number | undefined;
  /** Memory of a draft head. @default 0 */
  readonly draftBytes?: number | undefined;
  /** Sizes of the weights. @default computed */
  readonly weights?: WeightSizes | undefined;
}

/**
 * Plans the memory of an engine for a model, see `planEngineMemory`.
 *
 * @throws {RangeError} if the options do not fit the model, or `memoryBytes` is too small
 */
export function planModelMemory(
  model: Source,
  given: ResolvedEngineOptions,
  { freeBytes, draftBytes = 0, weights }: PlannedMemory = {},
): MemoryPlan {
  const precision = precisionOf(model, given.precision);
  const sizes = weights ?? weightSizes(model, precision);
  const options = optionsFor(model.config, given, sizes.experts);
  const needs: MemoryNeeds = {
    weightBytes: residentBytes(sizes, options.expertCacheBytes) + draftBytes,
    processBytes: totalBytes(processSizes(model, options)),
    bytesPerToken: kvBytesPerToken(model.config, kvPrecisionOf(precision, options.kvPrecision)),
    contextTokens: longestSequence(model.config),
    usualContextTokens: originalContext(model.config),
  };
  return planEngineMemory(needs, options, freeBytes);
}

/** Returns the context within which LongRoPE keeps its first frequencies: longer ones change all prompts. */
function originalContext({ ropes }: ModelConfig): number | undefined {
  return ropes.find((rope) => rope.type === "longrope")?.originalContextTokens;
}

/** Counts weights in memory: all of them, or of the experts as many as their cache holds. */
function residentBytes(sizes: WeightSizes, expertCacheBytes = Infinity): number {
  return totalBytes(sizes) - Math.max(0, sizes.experts - expertCacheBytes);
}

type Source = Pick<Model, "config" | "experts" | "weights" | "router">;

/** Bytes by part. */
export interface WeightSizes {
  readonly embeddings: number;
  /** 0 if it is the embedding table itself. */
  readonly head: number;
  readonly attention: number;
  /** Norms, and the routers within the layers of a mixture. */
  readonly small: number;
  /** FFN rows that every token uses; all FFN rows of a dense model. */
  readonly shared: number;
  /** All experts together; 0 for dense models. */
  readonly experts: number;
  /** The pre-gating router; 0 without one. */
  readonly router: number;
}

/** Sums sizes by part. */
export function totalBytes(sizes: WeightSizes | ProcessSizes): number {
  return Object.values(sizes).reduce((sum: number, bytes: number) => sum + bytes, 0);
}

function sizeOf(...tensors: readonly (PackedTensor | undefined)[]): number {
  return tensors.reduce((sum, one) => sum + (one ? one.weightBytes + one.scaleBytes + one.biasBytes : 0), 0);
}

function sizesOf(...ffns: readonly (LayerDescription["shared"] | undefined)[]): number {
  return sizeOf(...ffns.flatMap((ffn) => [ffn?.gate, ffn?.up, ffn?.down]));
}

function mixingOf(layer: LayerDescription): readonly (PackedTensor | undefined)[] {
  const { query, key, value, outputGate, recurrence, attentionOutput } = layer;
  const { convolution, rates, strength, decay, outputNorm } = recurrence ?? {};
  const ofHeads = [...headProductsOf(layer), layer.latent?.queryLow];
  return [...ofHeads, query, key, value, outputGate, convolution, rates, strength, decay, outputNorm, attentionOutput];
}

function smallOf(layer: LayerDescription): readonly (PackedTensor | undefined)[] {
  const { input, streamScale } = layer;
  const outputNorms = [layer.attentionOutputNorm, layer.ffnOutputNorm, input?.outputNorm, streamScale];
  const ofMixture = [layer.mixture?.router, ...mixtureTensorsOf(layer)];
  const inner = [layer.attentionNorm, layer.ffnNorm, layer.queryNorm, layer.keyNorm, layer.latent?.queryLowNorm];
  return [...inner, ...outputNorms, ...ofMixture, input?.gate, input?.output];
}

/**
 * Sums the sizes of the packed file's tensors by part, with padding to whole panels. The table of layers' inputs, of
 * which a token reads a row of the mapped file, is left out.
 */
export function weightSizes(model: Source, precision: Precision): WeightSizes {
  const { embedding, head, finalNorm, layers, encoder, layerInputs } = describeModel(model, precision, NOT_READ);
  const sumOf = (size: (layer: LayerDescription) => number): number =>
    layers.reduce((sum, layer) => sum + size(layer), 0);
  return {
    embeddings: sizeOf(embedding, layerInputs?.projection, encoder?.positions, encoder?.segments, encoder?.distances),
    head: head === embedding ? 0 : sizeOf(head),
    attention: sumOf((layer) => sizeOf(...mixingOf(layer))),
    small: sizeOf(finalNorm) + sumOf((layer) => sizeOf(...smallOf(layer))),
    shared: sumOf(({ shared }) => sizesOf(shared)),
    experts: sumOf(({ experts = [], mixture }) => sizesOf(...(mixture?.experts ?? experts))),
    router: model.router ? sizeOf(...layOut(describeRouter(model.router)).places.keys()) : 0,
  };
}

/** Memory of an engine's process besides weights, keys and values. Bytes. */
export interface ProcessSizes {
  /** Node and the inference runtime, without a model. */
  readonly process: number;
  readonly tokenizer: number;
  /** Values of the largest step. */
  readonly step: number;
  /** States of sequences, of models with recurrences. */
  readonly states: number;
  /** Garbage that is not collected yet, and gaps between allocations, with many sequences. */
  readonly slack: number;
}

/*
 * Resident memory of an engine's process less the weights by `weightSizes`, measured on Linux x64, Node 20, two
 * threads, opened from the cache: 83 MB with the pocket model in int8. SmolLM2 has 45,000 tokens more and takes 3 to 10
 * MB more.
 */
const PROCESS_BYTES = 83e6;
const TOKEN_BYTES = 220;
// Measured with SmolLM2 under load, 32 and 48 sequences, streamed experts within a quarter, half and three quarters of
// their bytes: 10 to 30 MB more than what can be counted.
const SLACK_BYTES_PER_SEQUENCE = 1e6;

/** Memory of the states of running sequences, and of drafts, at most, unless fewer than two sequences could run. */
const [STATE_BYTES, DRAFT_STATE_BYTES] = [512 << 20, 128 << 20];

/** Chooses how many sequences of a model with recurrences run together, and counts their states. */
export function stateSlots(
  config: ModelConfig,
  maxNumSeqs: number,
): { maxSequences: number; drafts: number; numStates: number } {
  const bytes = stateBytes(config);
  if (bytes === 0) return { maxSequences: maxNumSeqs, drafts: 0, numStates: 0 };
  const fit = Math.floor(STATE_BYTES / bytes / STATES_OF_SLOT);
  const maxSequences = Math.min(maxNumSeqs, Math.max(2, fit));
  const drafts = Math.min(32, Math.max(2, Math.floor(DRAFT_STATE_BYTES / bytes)));
  return { maxSequences, drafts, numStates: STATES_OF_SLOT * maxSequences + drafts };
}

/** Estimates the memory of an engine's process. */
export function processSizes(
  model: Source,
  { maxNumSeqs, maxNumBatchedTokens = STEP_TOKENS }: Pick<ResolvedEngineOptions, "maxNumSeqs" | "maxNumBatchedTokens">,
): ProcessSizes {
  const { vocabSize, encoder } = model.config;
  // A row of logits for each sequence, and a copy for sampling, in float32.
  const logitBytes = encoder ? 0 : 2 * 4 * maxNumSeqs * vocabSize;
  return {
    process: PROCESS_BYTES,
    tokenizer: vocabSize * TOKEN_BYTES,
    step: maxNumBatchedTokens * stepBytesPerToken(model) + logitBytes,
    states: stateSlots(model.config, maxNumSeqs).numStates * stateBytes(model.config),
    slack: (maxNumSeqs - 1) * SLACK_BYTES_PER_SEQUENCE,
  };
}

/**
 * Counts a row in the kernel: hidden states and what is added to them, queries, keys and values in float32; inputs of
 * products also rounded.
 */
function stepBytesPerToken({ config, experts }: Source): number {
  const { hiddenSize, numHeads, numKvHeads, headSize, numLayers, layerInputSize = 0 } = config;
  const ffnSize = Math.max(...experts.expertSizes.map((size, layer) => size + (experts.sharedSizes[layer] ?? 0)));
  const querySize = numHeads * headSize;
  const inputs = numLayers * layerInputSize;
  const floats = 3 * hiddenSize + 2 * querySize + 2 * numKvHeads * headSize + inputs;
  return 4 * floats + 7.5 * (hiddenSize + querySize + ffnSize);
}

/**
 * Describes the units of an expert cache: one layer of one expert each. Models without Read-ME's experts count as one.
 */
export function expertLayout(model: Source, precision: Precision = "int8"): ExpertLayout {
  const description = describeModel(model, precision, NOT_READ);
  if (model.experts.names.length > 1) {
    const { numExperts, layerBytes } = expertUnits(description);
    return { numExperts, layerBytes };
  }
  return {
    numExperts: 1,
    layerBytes: description.layers.map(({ shared, mixture }) => sizesOf(shared, ...(mixture?.experts ?? []))),
  };
}

/**
 * Describes the units of a mixture with a router in every layer: one of its experts in a layer that has some.
 *
 * @throws {TypeError} for other models
 */
export function mixtureLayout(model: Source, precision: Precision = "int8"): ExpertLayout {
  const { numExperts, layerBytes } = expertUnits(describeModel(model, precision, NOT_READ));
  return { numExperts, layerBytes: layerBytes.filter((bytes) => bytes > 0) };
}

// Statistics are needed only to write weights, which does not happen here.
const refuse = (): never => {
  throw new Error("The description is not for writing weights");
};
const NOT_READ: InputStatistics = { inputSquares: refuse };
