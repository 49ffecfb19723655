// Trains a draft head over a dense model, and writes it in the layout of EAGLE-3 heads.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import {
  decodeFloats,
  encodeFloats,
  exportedConfig,
  ggmlTypeOf,
  layerHeads,
  type Model,
  resolveCacheFolder,
  type SafetensorsInput,
  toJson,
  writeFileAtomically,
  writeSafetensors,
} from "@readme-moe/model";
import { learningRateShare } from "../autodiff/adam.ts";
import { typeOfWidth } from "../blocks/block-mixes.ts";
import { roundToBlocks } from "../blocks/round-blocks.ts";
import { pickRows } from "../linear-algebra/matrix.ts";
import type { DomainText } from "../job/prepare-domain.ts";
import { refuseMixture } from "../job/refactor-job.ts";
import { finishFolder, refuseOccupied, WorkFolder } from "../job/work-folder.ts";
import { stepsOf } from "../tuning/options.ts";
import type { Parameter } from "../tuning/parameters.ts";
import { bestOf, restoreParameters, train, type TrainingPlan } from "../tuning/train.ts";
import { prepareTexts, sequencesOfStep } from "../tuning/tuning-data.ts";
import { trainingFields } from "../tuning/tuning-report.ts";
import { type HeadShape, TAPS } from "./head-graph.ts";
import { divideColumns, HeadTrainer, type HeadSource, magnitudesOf, newParameters } from "./head-trainer.ts";
import { inFiles, type RowSequence, writeRows } from "./model-rows.ts";
import {
  type HeadOptions,
  type HeadRun,
  type ResolvedHeadOptions,
  resolveHeadOptions,
  tappedLayers,
} from "./options.ts";
import { chooseVocabulary, type DraftVocabulary, vocabularyShare } from "./vocabulary.ts";

/** Sequences on which the magnitudes of states are measured. */
const MEASURED = 16;
const LAST_RATE_SHARE = 0.05;

/** Results of a training: report.json of the head's folder. */
export type HeadReport = Awaited<ReturnType<typeof trainDraftHead>>;

/**
 * Trains a draft head (EAGLE-3) of a dense model: one layer that reads the residual stream in front of three layers and
 * predicts the model's next tokens, several in a row from its own states. The head learns the model's own
 * distributions. Writes the parameters with the least loss on held-out text to `out`, with a report.
 *
 * Work is kept in `<out>.unfinished` until it is done, with the model's states of all texts: `6 * hiddenSize` bytes a
 * token. The same model, texts and options give the same head on the same machine with the same number of threads,
 * however often the work was interrupted and resumed.
 *
 * @param texts - of each kind; every twelfth document is held out
 * @param out - a folder that does not exist yet, or is empty
 * @throws {TypeError | RangeError} on wrong options or too little text, before any long work
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the model is not dense; `ERR_WRITE_FAILED`
 */
export async function trainDraftHead(
  model: Model,
  texts: readonly DomainText[],
  out: string,
  options: HeadOptions & HeadRun = {},
) {
  const { config } = model;
  const resolved = resolveHeadOptions(options, config);
  refuseMixture(model, "draft heads are trained over dense models: name one");
  const [shape, layers] = [shapeOf(model, resolved), tappedLayers(config.numLayers)];
  await refuseOccupied(out);
  if (texts.length === 0) throw new RangeError("Expected text of at least one kind, got none");
  const startMs = performance.now();
  const { training, evaluation, domains } = await prepareTexts(model, texts, resolved);
  const models = [await model.fingerprint(resolveCacheFolder())];
  const work = await WorkFolder.open(out, { options: resolved, texts, models }, options.resume);

  const { threads, signal, onProgress, source: name = model.path } = options;
  const rows = {
    evaluation: inFiles(work.file("evaluation"), evaluation),
    training: inFiles(work.file("training"), training),
  };
  await writeRows(model, [...rows.evaluation, ...rows.training], {
    layers,
    threads,
    signal,
    onFile: (done, of) => onProgress?.({ stage: "states", done, of }),
  });
  const source = await readSource(model, rows.training, resolved);
  const parameters = newParameters(shape, source, resolved.seed);
  const trainer = new HeadTrainer(parameters, shape, source, { ...resolved, threads, signal });
  try {
    const files = { checkpoint: work.file("head.safetensors"), best: work.file("best.safetensors") };
    let tokensPerS = 0;
    const history = await train(trainer, parameters, planOf(resolved), {
      files,
      checkpointMs: options.checkpointMs ?? 300_000,
      signal,
      data: async () => rows,
      teacher: { step: 0, losses: [], mean: 0 },
      onProgress: (progress) => {
        tokensPerS = progress.tokensPerS;
        const accepted = progress.evaluation && trainer.accepted;
        onProgress?.({ ...progress, stage: "head", accepted });
      },
    });
    await restoreParameters(files.best, parameters);
    const tensors = storeParameters(parameters, source.magnitudes, resolved.blocks);
    await trainer.losses(rows.evaluation);
    const byKind = <Item>(of: (kind: number) => Item): Readonly<Record<string, Item>> =>
      Object.fromEntries(domains.map((domain, kind) => [domain.name, of(kind)]));
    const tokensOf = (steps: number): number => steps * resolved.batchSequences * resolved.sequenceTokens;
    const report = {
      ...trainingFields({
        model: name,
        options: resolved,
        trainedParameters: parameters.reduce((sum, { values }) => sum + values.length, 0),
        seconds: (performance.now() - startMs) / 1000,
        domains,
      }),
      layers,
      tokens: tokensOf(history.steps.length),
      /** Throughput of this process, without the model's states. */
      tokens_per_s: tokensPerS,
      /** Losses on held-out text, in nats per token and draft, by the number of tokens learned from. */
      losses: history.evaluations.map(({ step, mean, losses }) => ({
        tokens: tokensOf(step),
        mean,
        losses: byKind((kind) => losses[kind]),
      })),
      best_tokens: tokensOf(bestOf(history).step),
      /** Share of held-out text that the head can draft. */
      vocabulary_share: byKind((kind) => vocabularyShare(source.vocabulary, rows.evaluation, kind)),
      /**
       * Mean number of accepted drafts on held-out text in chains of 1 to 4 drafts: a draft counts when it and all
       * before it are the model's most probable tokens behind the text.
       */
      accepted: byKind((kind) => trainer.accepted[kind] ?? []),
    };
    await work.clear("model");
    const folder = work.file("model");
    await writeHead(folder, { model, shape, tokenIds: source.vocabulary.tokenIds, tensors, layers });
    await finishFolder(folder, out, { "report.json": toJson(report) });
    await work.remove();
    return report;
  } finally {
    await trainer.dispose();
  }
}

function planOf(options: ResolvedHeadOptions): TrainingPlan<RowSequence> {
  const { batchSequences, sequenceTokens, evaluations, learningRate, warmUpSteps } = options;
  const steps = stepsOf(options);
  return {
    steps,
    stepTokens: batchSequences * sequenceTokens,
    evaluations,
    patience: 0,
    rates: (step) => {
      const rate = learningRate * learningRateShare(step, steps, warmUpSteps, LAST_RATE_SHARE);
      return { matrices: rate, vectors: rate, weightDecay: 0 };
    },
    batch: (training, step) => sequencesOfStep(training, step, options),
  };
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for a model that engines could not open the head of */
function shapeOf({ path, config }: Model, { intermediate, vocabulary }: ResolvedHeadOptions): HeadShape {
  const first = config.layers.findIndex(({ isRecurrent = false }) => !isRecurrent);
  const own = config.ropes[config.layers[first]?.angleSet ?? 0];
  const { hiddenSize, rotatedSize, rmsNormEpsilon: epsilon } = config;
  if (!own || hiddenSize % 64 !== 0) {
    const expected = "draft heads need a model with rotary positions, of a width in whole 64s";
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: has a width of ${hiddenSize}; ${expected}`);
  }
  const heads = layerHeads(config, first);
  // A head rotates whole heads, whose frequencies only plain positions have for another number of dimensions.
  const isPlain = rotatedSize === heads.headSize && own.type !== "proportional";
  const rope = isPlain ? own : ({ type: "default", theta: own.theta } as const);
  return { hiddenSize, intermediate, vocabulary, ...heads, rope, epsilon };
}

function read({ store, name }: Model["weights"]["head"]): Promise<Float32Array> {
  return store.readFloats(name);
}

async function readSource(
  { config, weights }: Model,
  training: readonly RowSequence[],
  { vocabulary: size }: ResolvedHeadOptions,
): Promise<HeadSource> {
  const { hiddenSize, vocabSize, embeddingScale, normOffset } = config;
  const vocabulary = chooseVocabulary(training, size, vocabSize);
  const embedding = await read(weights.embedding);
  const head = weights.head === weights.embedding ? embedding : await read(weights.head);
  return {
    embedding,
    embeddingScale,
    head: pickRows(head, vocabulary.tokenIds, hiddenSize),
    finalNorm: (await read(weights.finalNorm)).map((scale) => scale + normOffset),
    magnitudes: await magnitudesOf(training.slice(0, MEASURED), TAPS * hiddenSize),
    vocabulary,
  };
}

/** Properties of rotary positions in config.json. */
const ROPE_FIELDS = new Set(["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"]);

/** Makes the tensors of a head's file, and gives the parameters the values that are stored. */
function storeParameters(
  parameters: readonly Parameter[],
  magnitudes: Float32Array,
  blocks: ResolvedHeadOptions["blocks"],
): readonly SafetensorsInput[] {
  const tensors: SafetensorsInput[] = [];
  for (const { key: name, shape, values, isVector } of parameters) {
    const isFusion = name === "fc.weight";
    const own = isFusion ? divideColumns(values, magnitudes) : values;
    const type = isVector || blocks === "none" ? "F16" : typeOfWidth(blocks, shape[1] ?? 1);
    const squares = isFusion ? magnitudes.map((size) => size ** 2) : undefined;
    const bytes = type === "F16" ? encodeFloats(own, type) : roundToBlocks(own, type, squares);
    tensors.push({ name, type, shape, bytes: async () => bytes });
    const stored = type === "F16" ? decodeFloats(bytes, type) : ggmlTypeOf(type)?.dequantize?.(bytes);
    if (stored) values.set(isFusion ? stored.map((value, at) => value * magnitudes[at % magnitudes.length]!) : stored);
  }
  return tensors;
}

interface TrainedHead {
  readonly model: Model;
  readonly shape: HeadShape;
  /** Token of each output. */
  readonly tokenIds: DraftVocabulary["tokenIds"];
  readonly tensors: readonly SafetensorsInput[];
  readonly layers: readonly number[];
}

/** Writes a head in the layout in which vLLM and SGLang read them; `lm_head` and `embed_tokens` are the model's. */
async function writeHead(folder: string, { model, shape, tokenIds, tensors, layers }: TrainedHead): Promise<void> {
  const layer = { slidingWindow: undefined, angleSet: 0, isMixture: false };
  const like = {
    ...model.config,
    modelType: "llama",
    rotatedSize: shape.headSize,
    ropes: [shape.rope],
    layers: [layer],
  };
  const fields = exportedConfig(like, undefined, { dtypes: ["fp32"], withDataFile: [] });
  const offsets = BigInt64Array.from(tokenIds, (id, place) => BigInt(id - place));
  const bytes = async (): Promise<Uint8Array> => new Uint8Array(offsets.buffer);
  await mkdir(folder, { recursive: true });
  await writeSafetensors(join(folder, "model.safetensors"), [
    ...tensors,
    { name: "d2t", type: "I64", shape: [tokenIds.length], bytes },
  ]);
  const head = {
    architectures: ["LlamaForCausalLMEagle3"],
    model_type: "llama",
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.intermediate,
    num_attention_heads: shape.numHeads,
    num_key_value_heads: shape.numKvHeads,
    head_dim: shape.headSize,
    rms_norm_eps: shape.epsilon,
    ...Object.fromEntries(Object.entries(fields).filter(([name, value]) => ROPE_FIELDS.has(name) && value !== null)),
    max_position_embeddings: model.config.contextTokens,
    vocab_size: model.config.vocabSize,
    draft_vocab_size: shape.vocabulary,
    num_hidden_layers: 1,
    hidden_act: "silu",
    tie_word_embeddings: false,
    eagle_config: { eagle_aux_hidden_state_layer_ids: layers, use_aux_hidden_state: true },
  };
  await writeFileAtomically(join(folder, "config.json"), toJson(head));
}
