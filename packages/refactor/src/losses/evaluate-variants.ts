// Measures losses of several models that share a backbone: the dense model, and experts made and chosen in several
// ways. All of them run layer by layer together, so that one layer at a time is in memory.

import { setImmediate as nextTurn } from "node:timers/promises";
import { type Model, openModel } from "@readme-moe/model";
import { linear } from "../autodiff/arithmetic.ts";
import { rmsNorm } from "../autodiff/layer-operations.ts";
import { ANY_ROWS, Tape, type Tensor } from "../autodiff/tape.ts";
import type { LayerExperts } from "../experts/select.ts";
import type { Graph } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import { GraphSession, type GraphTensor } from "../graphs/session.ts";
import type { RefactorJob } from "../job/refactor-job.ts";
import { readFamily } from "../job/work-folder.ts";
import {
  attentionGraph,
  denseLayerGraph,
  errorsGraph,
  expertGraph,
  layerSource,
  pickRows,
  type LayerSource,
} from "../layers/layer-graphs.ts";
import { floats, type Goal, type PassOptions, TokenStream } from "../layers/run-layer.ts";
import { errorShareOf } from "../options.ts";
import { withKernelRouter } from "../router-training/routes.ts";

/** Experts made in one way. */
interface Family {
  /** Reads a layer's experts; one layer at a time is in memory. */
  readonly layer: (index: number) => Promise<LayerExperts>;
  readonly variants: readonly Variant[];
}

/** One way to choose among a family's experts. */
interface Variant {
  readonly id: string;
  /** Expert of each token of the stream, or `"free"`: in each layer, the expert closest to the target. */
  readonly routes: Uint16Array | "free";
  /** Indices of the sequences that take part. @default all */
  readonly sequences?: readonly number[] | undefined;
  /** Receives the weighted squared distances from the target, `[tokens, experts]`, layer by layer. */
  readonly onErrors?: ((errors: Float32Array) => void) | undefined;
}

interface EvaluationOptions extends PassOptions {
  /** Share that the experts were fitted with, see `denseLayerGraph`. */
  readonly errorShare: number;
  /** Whether the dense model is measured, too. @default true */
  readonly withDense?: boolean | undefined;
  readonly onLayer?: ((done: number, of: number) => void) | undefined;
}

/** Mean losses by domain, in nats; `NaN` for domains without sequences. */
export type DomainLosses = readonly number[];

/** Rows of logits that are in memory together. */
const HEAD_ROWS = 256;

interface Evaluation {
  readonly model: Pick<Model, "config" | "weights">;
  readonly stream: TokenStream;
  readonly options: EvaluationOptions;
}

/** Hidden states of some sequences on their way through a model. */
interface Walker {
  readonly id: string;
  readonly sequences: readonly number[];
  readonly hidden: Float32Array;
}

interface ExpertWalker extends Walker {
  readonly family: Family;
  readonly variant: Variant;
}

/** @returns losses by `id` of each variant, and of `"dense"` */
async function evaluateVariants(
  model: Pick<Model, "config" | "weights">,
  stream: TokenStream,
  families: readonly Family[],
  options: EvaluationOptions,
): Promise<ReadonlyMap<string, DomainLosses>> {
  const evaluation = { model, stream, options };
  const embedded = await stream.embed(model);
  const everything = [...stream.sequences.keys()];
  const walkers = families.flatMap((family) =>
    family.variants.map((variant): ExpertWalker => {
      const { id, sequences = everything } = variant;
      return { id, family, variant, sequences, hidden: stream.pick(embedded, sequences) };
    }),
  );
  const dense = (options.withDense ?? true) && { id: "dense", sequences: everything, hidden: embedded };
  const { numLayers } = model.config;
  for (let index = 0; index < numLayers; index++) {
    await walkLayer(evaluation, layerSource(model, index), dense, walkers);
    options.onLayer?.(index + 1, numLayers);
  }
  const losses = new Map<string, DomainLosses>();
  await withSession(lossGraph(model), options, async (session) => {
    for (const walker of dense ? [dense, ...walkers] : walkers) {
      losses.set(walker.id, await lossesOf(session, evaluation, walker));
    }
  });
  return losses;
}

async function walkLayer(
  { stream, options }: Evaluation,
  source: LayerSource,
  dense: Walker | false,
  walkers: readonly ExpertWalker[],
): Promise<void> {
  const { hiddenSize, sequenceTokens } = stream;
  const perSequence = sequenceTokens * hiddenSize;
  const goal = { rows: new Float32Array(stream.numTokens * hiddenSize), weights: new Float32Array(stream.numTokens) };
  const run = (
    graph: Graph,
    walking: readonly Walker[],
    onOutputs: (outputs: Outputs, own: Float32Array, place: number) => void,
  ): Promise<void> =>
    withSession(graph, options, async (session) => {
      for (const { hidden, sequences } of walking) {
        for (const place of sequences.keys()) {
          options.signal?.throwIfAborted();
          const own = hidden.subarray(place * perSequence, (place + 1) * perSequence);
          const feeds = { hidden: { data: own, dims: [sequenceTokens, hiddenSize] } };
          onOutputs(await session.run(feeds), own, place);
        }
        await nextTurn();
      }
    });
  if (dense) {
    await run(denseLayerGraph(source, options.errorShare, sequenceTokens), [dense], (outputs, own, place) => {
      own.set(floats(outputs, "next"));
      goal.rows.set(floats(outputs, "goal"), place * perSequence);
      goal.weights.set(floats(outputs, "weights"), place * sequenceTokens);
    });
  }
  await run(attentionGraph(source, sequenceTokens), walkers, (outputs, own) => own.set(floats(outputs, "attended")));
  for (const family of new Set(walkers.map((walker) => walker.family))) {
    const layer = { source, experts: await family.layer(source.index), goal };
    const own = walkers.filter((walker) => walker.family === family);
    await walkExperts({ stream, options }, layer, own);
  }
}

/** Runs the walkers of one family from the attention's output through their experts. */
async function walkExperts(
  { stream, options }: Pick<Evaluation, "stream" | "options">,
  { source, experts, goal }: { readonly source: LayerSource; readonly experts: LayerExperts; readonly goal: Goal },
  walkers: readonly ExpertWalker[],
): Promise<void> {
  const { hiddenSize, sequenceTokens } = stream;
  const routes = new Map<Walker, Uint16Array>();
  const measured = walkers.filter(({ variant }) => variant.routes === "free" || variant.onErrors);
  if (measured.length > 0) {
    await withSession(errorsGraph(source, experts, options.errorShare), options, async (session) => {
      for (const walker of measured) {
        const numTokens = walker.sequences.length * sequenceTokens;
        const outputs = await session.run({
          attended: { data: walker.hidden, dims: [numTokens, hiddenSize] },
          goal: { data: stream.pick(goal.rows, walker.sequences), dims: [numTokens, hiddenSize] },
          weights: { data: stream.pick(goal.weights, walker.sequences), dims: [numTokens, 1] },
        });
        const errors = floats(outputs, "errors");
        walker.variant.onErrors?.(errors);
        if (walker.variant.routes === "free") routes.set(walker, cheapestExperts(errors, experts.experts.length));
      }
    });
  }
  for (const walker of walkers) {
    const { routes: given } = walker.variant;
    if (given !== "free") routes.set(walker, pickRoutes(given, walker.sequences, sequenceTokens));
  }
  for (const expert of experts.experts.keys()) {
    await withSession(expertGraph(source, experts, expert), options, async (session) => {
      for (const [{ hidden }, own] of routes) {
        options.signal?.throwIfAborted();
        const tokens = Int32Array.from(own.keys()).filter((token) => own[token] === expert);
        if (tokens.length === 0) continue;
        const rows = pickRows(hidden, tokens, hiddenSize);
        const outputs = await session.run({ attended: { data: rows, dims: [tokens.length, hiddenSize] } });
        const next = floats(outputs, "hidden");
        tokens.forEach((token, i) =>
          hidden.set(next.subarray(i * hiddenSize, (i + 1) * hiddenSize), token * hiddenSize),
        );
      }
      await nextTurn();
    });
  }
}

async function lossesOf(
  session: GraphSession,
  { stream, options }: Evaluation,
  { hidden, sequences }: Walker,
): Promise<DomainLosses> {
  const { hiddenSize, sequenceTokens, domains } = stream;
  const sums = Array.from({ length: Math.max(...domains) + 1 }, () => ({ nats: 0, tokens: 0 }));
  for (const [place, index] of sequences.entries()) {
    const [ids, sum] = [stream.sequences[index]!, sums[domains[index]!]!];
    for (let from = 0; from < sequenceTokens - 1; from += HEAD_ROWS) {
      options.signal?.throwIfAborted();
      const end = Math.min(from + HEAD_ROWS, sequenceTokens - 1);
      const start = (place * sequenceTokens + from) * hiddenSize;
      const outputs = await session.run({
        hidden: {
          data: hidden.subarray(start, start + (end - from) * hiddenSize),
          dims: [end - from, hiddenSize],
        },
        targets: { data: BigInt64Array.from(ids.subarray(from + 1, end + 1), BigInt), dims: [end - from, 1] },
      });
      for (const logProb of floats(outputs, "target_log_probs")) sum.nats -= logProb;
      sum.tokens += end - from;
    }
    await nextTurn();
  }
  return sums.map(({ nats, tokens }) => nats / tokens);
}

/**
 * Computes the next token's log-probability from hidden states after the last layer. Inputs: `hidden` float32
 * `[rows, hiddenSize]`, `targets` int64 `[rows, 1]`. Output: `target_log_probs` `[rows]`.
 */
function lossGraph({ config, weights }: Evaluation["model"]): Graph {
  const { GatherElements, Mul, ReduceLogSumExp, Squeeze, Sub } = operators;
  const tape = new Tape("loss");
  const g = tape.graph;
  const weight = (name: string, ref: typeof weights.head): Tensor =>
    tape.weight(name, ref.shape, () => ref.store.readFloats(ref.name));
  const hidden = tape.data("hidden", "float32", [ANY_ROWS, config.hiddenSize]);
  const numbers = { epsilon: config.rmsNormEpsilon, offset: config.normOffset };
  const normed = rmsNorm(tape, hidden, weight("final_norm", weights.finalNorm), numbers);
  const product = linear(tape, normed, weight("head", weights.head)).value;
  const logits = config.logitScale === 1 ? product : Mul(g, product, g.float(config.logitScale));
  const targetLogits = GatherElements(g, logits, g.input("targets", "int64", ["rows", 1]), 1);
  const logProbs = Sub(g, Squeeze(g, targetLogits, [1]), ReduceLogSumExp(g, logits, 1));
  g.output("target_log_probs", logProbs, "float32", ["rows"]);
  return g.build();
}

function pickRoutes(routes: Uint16Array, sequences: readonly number[], sequenceTokens: number): Uint16Array {
  const picked = new Uint16Array(sequences.length * sequenceTokens);
  sequences.forEach((index, place) => {
    picked.set(routes.subarray(index * sequenceTokens, (index + 1) * sequenceTokens), place * sequenceTokens);
  });
  return picked;
}

/**
 * Returns the expert with the least cost for each token; ties go to the lower index.
 *
 * @param costs - `[tokens, experts]`
 */
function cheapestExperts(costs: Float32Array, numExperts: number): Uint16Array {
  return new Uint16Array(costs.length / numExperts).map((_, token) => {
    const own = costs.subarray(token * numExperts, (token + 1) * numExperts);
    let best = 0;
    own.forEach((cost, expert) => {
      if (cost < own[best]!) best = expert;
    });
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

type Outputs = Readonly<Record<string, GraphTensor>>;

// Measures a written model on held-out text: with its own router's routes, and beside everything it is compared with.

export interface Measurement {
  /** Losses by domain, by id of `LOSS_LABELS`. */
  readonly losses: ReadonlyMap<string, DomainLosses>;
  /** `[expert][domain]` */
  readonly expertLosses: readonly DomainLosses[];
  readonly stream: TokenStream;
  /** Expert of each token of the stream, chosen by the model's own router. */
  readonly routes: Uint16Array;
  /** `[tokens, experts]`: squared distances from the targets, summed over layers. */
  readonly costs: Float32Array;
}

/**
 * @param folder - the written model
 * @param expertOf - expert of each domain
 */
export async function measureModel(
  job: RefactorJob,
  folder: string,
  expertOf: readonly number[],
): Promise<Measurement> {
  const { model, data, grouping, options, work, run, stages } = job;
  const stream = new TokenStream(
    model.config,
    data.map(({ evaluation }) => evaluation),
    1,
  );
  const numExperts = grouping.names.length;
  const { sequenceTokens, domains, numTokens } = stream;
  const routes = await ownRoutes(job, folder, stream);
  const byDomain = new Uint16Array(numTokens).map((_, at) => expertOf[domains[Math.floor(at / sequenceTokens)]!]!);
  const costs = new Float32Array(numTokens * numExperts);
  const onErrors = (errors: Float32Array): void => errors.forEach((error, at) => (costs[at]! += error));
  const family = (name: string, ...variants: readonly Variant[]): Family => ({
    layer: (index) => readFamily(work.layerFile(index), name),
    variants,
  });
  // The matrix of experts and domains takes a run for each expert: one sequence of each domain has to do.
  const samples = domains.flatMap((domain, index) => (domain === domains[index - 1] ? [] : [index]));
  const fixed = grouping.names.map((_, expert) => ({
    id: `expert ${expert}`,
    routes: new Uint16Array(numTokens).fill(expert),
    sequences: samples,
  }));
  const families = [
    family(
      "ours",
      { id: "ours", routes },
      { id: "oracle_domain", routes: byDomain, onErrors },
      { id: "free", routes: "free" },
      ...fixed,
    ),
  ];
  if (options.baselines) {
    families.push(
      family("static", { id: "static", routes: new Uint16Array(numTokens) }),
      family("paper", { id: "paper", routes: byDomain }),
      family("random", { id: "random", routes: byDomain }),
    );
  }
  const { numLayers } = model.config;
  const shared = { threads: run.threads, signal: run.signal, errorShare: errorShareOf(options) };
  const first = await evaluateVariants(model, stream, families, {
    ...shared,
    onLayer: (done) => stages.report("losses", done, 2 * numLayers),
  });
  // The best expert of a token is known only when all layers have been measured.
  const best = family("ours", { id: "oracle_token", routes: cheapestExperts(costs, numExperts) });
  const second = await evaluateVariants(model, stream, [best], {
    ...shared,
    withDense: false,
    onLayer: (done) => stages.report("losses", numLayers + done, 2 * numLayers),
  });
  const losses = new Map([...first, ...second]);
  const expertLosses = fixed.map(({ id }) => losses.get(id) ?? []);
  for (const { id } of fixed) losses.delete(id);
  return { losses, expertLosses, stream, routes, costs };
}

/** Routes each sequence from its beginning with the router of the written model. */
async function ownRoutes({ work, run }: RefactorJob, folder: string, stream: TokenStream): Promise<Uint16Array> {
  const written = await openModel(folder);
  try {
    return await withKernelRouter(written, { cacheFolder: work.file("cache"), threads: run.threads }, async (route) => {
      const routes = new Uint16Array(stream.numTokens);
      for (const [index, ids] of stream.sequences.entries())
        routes.set(await route(ids), index * stream.sequenceTokens);
      return routes;
    });
  } finally {
    await written.close();
  }
}
