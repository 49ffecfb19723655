// A router in training: its parameters, the optimizer's state, and the graphs that they go through.

import type { RouterConfig } from "@readme-moe/model";
import { GraphSession, type GraphTensor } from "@readme-moe/onnx";
import { argmaxRoute } from "@readme-moe/router";
import { adamRows, adamStep, type AdamMoments, type AdamOptions } from "../autodiff/adam.ts";
import { clipGradients } from "../autodiff/schedule.ts";
import { gradientName } from "../autodiff/tape.ts";
import type { RouterBatch } from "./router-batches.ts";
import { EMBEDDED, predictionGraph, routerShapes, trainingGraph, type BatchShape } from "./router-network.ts";

export const EMBEDDING = "embed.weight";

const MAX_GRADIENT_NORM = 1;
const ADAM = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 } as const;
/** A token is met in few batches: its row has to learn faster than what is in all of them. */
const EMBEDDING_RATE = 3;
/** Prediction pads texts to multiples of this, so that few graphs do for all lengths. */
const LENGTH_STEP = 128;

export class RouterTrainer {
  readonly #config: RouterConfig;
  readonly #shapes: ReadonlyMap<string, readonly number[]>;
  readonly #threads: number | undefined;
  readonly #training: GraphSession;
  readonly #predictions = new Map<number, GraphSession>();
  /** Official names; the embedding is `EMBEDDING`. */
  readonly parameters: ReadonlyMap<string, Float32Array>;
  readonly #moments: ReadonlyMap<string, AdamMoments>;
  /** How often each row of the embedding was updated. */
  readonly #rowSteps: Float32Array;

  private constructor(
    config: RouterConfig,
    parameters: ReadonlyMap<string, Float32Array>,
    training: GraphSession,
    threads: number | undefined,
  ) {
    this.#config = config;
    this.#shapes = routerShapes(config);
    this.#threads = threads;
    this.#training = training;
    this.parameters = parameters;
    this.#moments = new Map([...parameters].map(([name, { length }]) => [name, zeroMoments(length)]));
    this.#rowSteps = new Float32Array(config.vocabSize);
  }

  /** @param parameters - of `routerShapes`, and `EMBEDDING`; changed in place from here on */
  static async open(
    config: RouterConfig,
    parameters: ReadonlyMap<string, Float32Array>,
    shape: BatchShape,
    threads: number | undefined,
  ): Promise<RouterTrainer> {
    const training = await GraphSession.open(trainingGraph(config, shape), { threads });
    return new RouterTrainer(config, parameters, training, threads);
  }

  /** All that a step changes, by name: the arrays themselves. */
  get state(): ReadonlyMap<string, Float32Array> {
    const state = new Map<string, Float32Array>([["row_steps", this.#rowSteps]]);
    for (const [name, values] of this.parameters) state.set(`parameter:${name}`, values);
    for (const [name, { first, second }] of this.#moments)
      state.set(`first:${name}`, first).set(`second:${name}`, second);
    return state;
  }

  /** Learns from one batch. @param step - counts from 1 @returns the batch's loss: see `crossEntropy` */
  async learn(
    { tokenIds, targets }: RouterBatch,
    step: number,
    rates: Pick<AdamOptions, "learningRate" | "weightDecay">,
  ): Promise<number> {
    const { numExperts, embeddingSize } = this.#config;
    const feeds = this.#feeds(tokenIds);
    feeds["targets"] = { data: targets, dims: [tokenIds.length, numExperts] };
    const outputs = await this.#training.run(feeds);
    const gradients = new Map<string, Float32Array>();
    for (const name of this.#shapes.keys()) gradients.set(name, outputs[gradientName(name)]?.data as Float32Array);
    const rows = outputs[gradientName(EMBEDDED)]?.data as Float32Array;
    const embedding = sumByToken(tokenIds, rows, embeddingSize);
    clipGradients([...gradients.values(), embedding.gradient], MAX_GRADIENT_NORM);
    for (const [name, gradient] of gradients) {
      const isMatrix = (this.#shapes.get(name)?.length ?? 0) > 1;
      const options = { ...ADAM, ...rates, weightDecay: isMatrix ? rates.weightDecay : 0 };
      adamStep(this.#parameter(name), gradient, this.#moments.get(name) as AdamMoments, step, options);
    }
    adamRows(
      this.#parameter(EMBEDDING),
      embedding.ids,
      embedding.gradient,
      this.#moments.get(EMBEDDING) as AdamMoments,
      this.#rowSteps,
      { ...ADAM, ...rates, learningRate: rates.learningRate * EMBEDDING_RATE },
    );
    return Number(outputs["loss"]?.data[0]);
  }

  /** The expert of each token of one text. */
  async route(tokenIds: Int32Array): Promise<Uint16Array> {
    return argmaxRoute(await this.logits(tokenIds), this.#config.numExperts);
  }

  /** `[tokens, numExperts]` */
  async logits(tokenIds: Int32Array): Promise<Float32Array> {
    const length = Math.ceil(tokenIds.length / LENGTH_STEP) * LENGTH_STEP;
    let session = this.#predictions.get(length);
    if (!session) {
      const graph = predictionGraph(this.#config, { sequences: 1, tokens: length });
      session = await GraphSession.open(graph, { threads: this.#threads });
      this.#predictions.set(length, session);
    }
    const padded = new Int32Array(length);
    padded.set(tokenIds);
    const { logits } = await session.run(this.#feeds(padded));
    const all = logits?.data as Float32Array;
    return all.slice(0, tokenIds.length * this.#config.numExperts);
  }

  async dispose(): Promise<void> {
    for (const session of [this.#training, ...this.#predictions.values()]) await session.dispose();
  }

  #feeds(tokenIds: Int32Array): Record<string, GraphTensor> {
    const { embeddingSize } = this.#config;
    const table = this.#parameter(EMBEDDING);
    const embedded = new Float32Array(tokenIds.length * embeddingSize);
    tokenIds.forEach((id, row) => {
      embedded.set(table.subarray(id * embeddingSize, (id + 1) * embeddingSize), row * embeddingSize);
    });
    const feeds: Record<string, GraphTensor> = {
      [EMBEDDED]: { data: embedded, dims: [tokenIds.length, embeddingSize] },
    };
    for (const [name, dims] of this.#shapes) feeds[name] = { data: this.#parameter(name), dims };
    return feeds;
  }

  #parameter(name: string): Float32Array {
    return this.parameters.get(name) as Float32Array;
  }
}

/** Adds up the gradients of rows with the same id; ids in the order of their first row. */
function sumByToken(
  tokenIds: Int32Array,
  rows: Float32Array,
  width: number,
): { readonly ids: Int32Array; readonly gradient: Float32Array } {
  const places = new Map<number, number>();
  for (const id of tokenIds) if (!places.has(id)) places.set(id, places.size);
  const gradient = new Float32Array(places.size * width);
  tokenIds.forEach((id, row) => {
    const start = (places.get(id) as number) * width;
    for (let i = 0; i < width; i++) {
      gradient[start + i] = (gradient[start + i] as number) + (rows[row * width + i] as number);
    }
  });
  return { ids: Int32Array.from(places.keys()), gradient };
}

function zeroMoments(length: number): AdamMoments {
  return { first: new Float32Array(length), second: new Float32Array(length) };
}
