// Losses of several models that share a backbone: the dense model, and experts made and chosen in several ways, walk through the
// layers together, so that one layer at a time is in memory.

import type { Model } from "@readme-moe/model";
import { GraphSession, type Graph } from "@readme-moe/onnx";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { attentionGraph, denseLayerGraph, errorsGraph, expertGraph } from "../layers/layer-graphs.ts";
import { layerSource, type LayerSource } from "../layers/layer-source.ts";
import type { Goal, PassOptions } from "../layers/run-layer.ts";
import type { TokenStream } from "../layers/token-stream.ts";
import { lossGraph } from "./loss-graph.ts";

/** Experts made in one way. */
export interface Family {
  /** One at a time is in memory. */
  readonly layer: (index: number) => Promise<LayerExperts>;
  readonly variants: readonly Variant[];
}

/** How a family's experts are chosen. */
export interface Variant {
  readonly id: string;
  /** Of each token of the stream; or `"free"`: in each layer whichever comes closest to the target. */
  readonly routes: Uint16Array | "free";
  /** Which tokens take part: whole sequences. @default all */
  readonly sequences?: readonly number[] | undefined;
  /** Receives each token's and expert's weighted squared distance from the target, layer by layer; `[tokens, experts]`. */
  readonly onErrors?: ((layer: number, errors: Float32Array) => void) | undefined;
}

export interface EvaluationOptions extends PassOptions {
  /** As experts were fitted: see `denseLayerGraph`. */
  readonly errorShare: number;
  /** Whether the dense model walks along; variants that look at errors need it. @default true */
  readonly withDense?: boolean | undefined;
  readonly onLayer?: ((done: number, of: number) => void) | undefined;
}

/** Mean losses in nats by domain; `NaN` for domains without sequences. */
export type DomainLosses = readonly number[];

const DENSE = "dense";
// Rows of logits that are in memory together.
const HEAD_ROWS = 256;

interface Walker {
  readonly id: string;
  readonly family: Family | undefined;
  readonly variant: Variant | undefined;
  readonly sequences: readonly number[];
  hidden: Float32Array;
}

/** @returns losses by `id` of each variant, and of `"dense"` */
export async function evaluateVariants(
  model: Pick<Model, "config" | "weights">,
  stream: TokenStream,
  families: readonly Family[],
  options: EvaluationOptions,
): Promise<ReadonlyMap<string, DomainLosses>> {
  const embedded = await stream.embed(model);
  const everything = stream.sequences.map((_, index) => index);
  const walkers: Walker[] = [];
  if (options.withDense ?? true) {
    walkers.push({ id: DENSE, family: undefined, variant: undefined, sequences: everything, hidden: embedded.slice() });
  }
  for (const family of families) {
    for (const variant of family.variants) {
      const sequences = variant.sequences ?? everything;
      walkers.push({ id: variant.id, family, variant, sequences, hidden: stream.pick(embedded, sequences) });
    }
  }
  for (let index = 0; index < model.config.numLayers; index++) {
    await walkLayer(layerSource(model, index), stream, walkers, options);
    options.onLayer?.(index + 1, model.config.numLayers);
  }
  const losses = new Map<string, DomainLosses>();
  await withSession(lossGraph(model), options, async (session) => {
    for (const walker of walkers) losses.set(walker.id, await lossesOf(session, stream, walker, options));
  });
  return losses;
}

async function walkLayer(
  source: LayerSource,
  stream: TokenStream,
  walkers: readonly Walker[],
  options: EvaluationOptions,
): Promise<void> {
  const { hiddenSize, sequenceTokens } = stream;
  const goal = { rows: new Float32Array(stream.numTokens * hiddenSize), weights: new Float32Array(stream.numTokens) };
  const perSequence = sequenceTokens * hiddenSize;
  for (const graph of ["dense", "attention"] as const) {
    const built =
      graph === "dense"
        ? denseLayerGraph(source, options.errorShare, sequenceTokens)
        : attentionGraph(source, sequenceTokens);
    await withSession(built, options, async (session) => {
      for (const { id, hidden, sequences } of walkers.filter(
        (walker) => (walker.id === DENSE) === (graph === "dense"),
      )) {
        for (const place of sequences.keys()) {
          options.signal?.throwIfAborted();
          const own = hidden.subarray(place * perSequence, (place + 1) * perSequence);
          const outputs = await session.run({ hidden: { data: own, dims: [sequenceTokens, hiddenSize] } });
          own.set(outputs[id === DENSE ? "next" : "attended"]?.data as Float32Array);
          if (id !== DENSE) continue;
          goal.rows.set(outputs["goal"]?.data as Float32Array, place * perSequence);
          goal.weights.set(outputs["weights"]?.data as Float32Array, place * sequenceTokens);
        }
        await breathe();
      }
    });
  }
  for (const family of new Set(walkers.flatMap((walker) => walker.family ?? []))) {
    const layer = await family.layer(source.index);
    await walkFamily(
      source,
      stream,
      layer,
      goal,
      walkers.filter((walker) => walker.family === family),
      options,
    );
  }
}

/** From behind attention through the experts. */
async function walkFamily(
  source: LayerSource,
  stream: TokenStream,
  layer: LayerExperts,
  goal: Goal,
  walkers: readonly Walker[],
  options: EvaluationOptions,
): Promise<void> {
  const { hiddenSize } = stream;
  const routes = new Map<Walker, ArrayLike<number>>();
  const curious = walkers.filter(({ variant }) => variant?.routes === "free" || variant?.onErrors);
  if (curious.length > 0) {
    await withSession(errorsGraph(source, layer, options.errorShare), options, async (session) => {
      for (const walker of curious) {
        const [goals, weights] = [goal.rows, goal.weights].map((all) => stream.pick(all, walker.sequences));
        const numTokens = walker.sequences.length * stream.sequenceTokens;
        const outputs = await session.run({
          attended: { data: walker.hidden, dims: [numTokens, hiddenSize] },
          goal: { data: goals as Float32Array, dims: [numTokens, hiddenSize] },
          weights: { data: weights as Float32Array, dims: [numTokens, 1] },
        });
        const errors = outputs["errors"]?.data as Float32Array;
        walker.variant?.onErrors?.(source.index, errors);
        if (walker.variant?.routes === "free") routes.set(walker, leastOf(errors, layer.experts.length));
      }
    });
  }
  for (const walker of walkers) {
    if (!routes.has(walker)) routes.set(walker, routesOf(stream, walker));
  }
  for (const expert of layer.experts.keys()) {
    await withSession(expertGraph(source, layer, expert), options, async (session) => {
      for (const walker of walkers) {
        options.signal?.throwIfAborted();
        const tokens = placesOf(routes.get(walker) as ArrayLike<number>, expert);
        if (tokens.length === 0) continue;
        const rows = new Float32Array(tokens.length * hiddenSize);
        tokens.forEach((token, i) =>
          rows.set(walker.hidden.subarray(token * hiddenSize, (token + 1) * hiddenSize), i * hiddenSize),
        );
        const { hidden } = await session.run({ attended: { data: rows, dims: [tokens.length, hiddenSize] } });
        const next = hidden?.data as Float32Array;
        tokens.forEach((token, i) =>
          walker.hidden.set(next.subarray(i * hiddenSize, (i + 1) * hiddenSize), token * hiddenSize),
        );
      }
      await breathe();
    });
  }
}

async function lossesOf(
  session: GraphSession,
  stream: TokenStream,
  { hidden, sequences }: Walker,
  options: EvaluationOptions,
): Promise<DomainLosses> {
  const { hiddenSize, sequenceTokens } = stream;
  const sums = new Map<number, { nats: number; tokens: number }>();
  for (const [place, index] of sequences.entries()) {
    const ids = stream.sequences[index] as Int32Array;
    const sum = sums.get(stream.domains[index] as number) ?? { nats: 0, tokens: 0 };
    sums.set(stream.domains[index] as number, sum);
    for (let from = 0; from < sequenceTokens - 1; from += HEAD_ROWS) {
      options.signal?.throwIfAborted();
      const end = Math.min(from + HEAD_ROWS, sequenceTokens - 1);
      const start = (place * sequenceTokens + from) * hiddenSize;
      const rows = hidden.subarray(start, start + (end - from) * hiddenSize);
      const outputs = await session.run({
        hidden: { data: rows, dims: [end - from, hiddenSize] },
        targets: { data: BigInt64Array.from(ids.subarray(from + 1, end + 1), BigInt), dims: [end - from, 1] },
      });
      const logProbs = outputs["target_log_probs"]?.data as Float32Array;
      for (const logProb of logProbs) sum.nats -= logProb;
      sum.tokens += end - from;
    }
    await breathe();
  }
  const numDomains = Math.max(...stream.domains) + 1;
  return Array.from({ length: numDomains }, (_, domain) => {
    const sum = sums.get(domain);
    return sum ? sum.nats / sum.tokens : NaN;
  });
}

function routesOf({ sequenceTokens }: TokenStream, { variant, sequences }: Walker): Uint16Array {
  const all = variant?.routes as Uint16Array;
  const routes = new Uint16Array(sequences.length * sequenceTokens);
  sequences.forEach((index, place) => {
    routes.set(all.subarray(index * sequenceTokens, (index + 1) * sequenceTokens), place * sequenceTokens);
  });
  return routes;
}

function placesOf(routes: ArrayLike<number>, expert: number): Int32Array {
  return Int32Array.from({ length: routes.length }, (_, token) => token).filter((token) => routes[token] === expert);
}

/** The expert with the least error of each token; the lower index among equals. */
export function leastOf(errors: Float32Array, numExperts: number): Uint16Array {
  return Uint16Array.from({ length: errors.length / numExperts }, (_, token) => {
    let best = 0;
    for (let expert = 1; expert < numExperts; expert++) {
      if ((errors[token * numExperts + expert] as number) < (errors[token * numExperts + best] as number))
        best = expert;
    }
    return best;
  });
}

async function withSession(
  graph: Graph,
  { threads }: PassOptions,
  use: (session: GraphSession) => Promise<void>,
): Promise<void> {
  const session = await GraphSession.open(graph, { threads });
  try {
    await use(session);
  } finally {
    await session.dispose();
  }
}

/** Runs block their thread: without a break, neither signals nor timers would be heard. */
function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
