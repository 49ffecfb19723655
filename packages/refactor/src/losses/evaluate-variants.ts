// Measures losses of several models that share a backbone: the dense model, and experts made and chosen in several
// ways. All of them run layer by layer together, so that one layer at a time is in memory.

import { setImmediate as nextTurn } from "node:timers/promises";
import { type Model, openModel } from "@readme-moe/model";
import type { LayerExperts } from "../experts/select.ts";
import { floatOutput } from "../graphs/session.ts";
import type { RefactorJob } from "../job/refactor-job.ts";
import { readFamily } from "../job/work-folder.ts";
import { expertGraph, layerSource } from "../layers/layer-graphs.ts";
import {
  addErrors,
  type Goal,
  type LayerPass,
  type PassOptions,
  runAttention,
  runDense,
  TokenStream,
  withSession,
} from "../layers/run-layer.ts";
import { pickRows } from "../linear-algebra/matrix.ts";
import { errorShareOf } from "../options.ts";
import { withKernelRouter } from "../router-training/routes.ts";
import { crossEntropies, GraphPool, readWeight } from "../tuning/decoder.ts";

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

/** Hidden states of some sequences on their way through a model. */
interface Walker {
  readonly family: Family;
  readonly variant: Variant;
  readonly sequences: readonly number[];
  readonly hidden: Float32Array;
}

/** @returns losses by `id` of each variant, and of `"dense"` */
async function evaluateVariants(
  model: Pick<Model, "config" | "weights">,
  stream: TokenStream,
  families: readonly Family[],
  options: EvaluationOptions,
): Promise<ReadonlyMap<string, DomainLosses>> {
  const { numLayers, hiddenSize } = model.config;
  const { withDense = true, errorShare } = options;
  const dense = await stream.embed(model);
  const everything = [...stream.sequences.keys()];
  const chosen = families.flatMap((family) =>
    family.variants.map((variant) => ({ family, variant, sequences: variant.sequences ?? everything })),
  );
  // All of them pass through one graph of attention.
  const all = chosen.flatMap(({ sequences }) => sequences);
  const together = new TokenStream(model.config, [all.map((index) => stream.sequences[index]!)], 1);
  const hidden = stream.pick(dense, all);
  let end = 0;
  const walkers = chosen.map((one): Walker => {
    const start = end;
    end += one.sequences.length * stream.sequenceTokens * hiddenSize;
    return { ...one, hidden: hidden.subarray(start, end) };
  });
  let goal: Goal = { rows: new Float32Array(), weights: new Float32Array() };
  for (let index = 0; index < numLayers; index++) {
    const source = layerSource(model, index);
    if (withDense) ({ goal } = await runDense({ source, stream, options }, dense, errorShare));
    await runAttention({ source, stream: together, options }, hidden);
    for (const family of families) {
      const pass = { source, stream, options };
      const own = walkers.filter((walker) => walker.family === family);
      await walkExperts(pass, { experts: await family.layer(index), goal, errorShare }, own);
    }
    options.onLayer?.(index + 1, numLayers);
  }
  const pool = new GraphPool(model.config, stream.sequenceTokens, options.threads);
  try {
    const { head, finalNorm } = model.weights;
    const weights = {
      head: await head.store.readFloats(head.name),
      finalNorm: await readWeight(finalNorm, "backbone"),
    };
    const losses = new Map<string, DomainLosses>();
    const lossesOf = async (id: string, states: Float32Array, sequences: readonly number[]): Promise<void> => {
      const means = await meanLosses(stream, sequences, (place, ids) => {
        options.signal?.throwIfAborted();
        const size = stream.sequenceTokens * hiddenSize;
        return crossEntropies(pool, states.subarray(place * size, (place + 1) * size), weights, ids);
      });
      losses.set(id, means);
    };
    if (withDense) await lossesOf("dense", dense, everything);
    for (const walker of walkers) await lossesOf(walker.variant.id, walker.hidden, walker.sequences);
    return losses;
  } finally {
    await pool.dispose();
  }
}

/** Averages the losses of some sequences by domain. @param lossesOf - computes those of rows with given next tokens */
async function meanLosses(
  { sequences: all, domains, sequenceTokens }: TokenStream,
  sequences: readonly number[],
  lossesOf: (place: number, ids: Int32Array) => Promise<Float32Array>,
): Promise<DomainLosses> {
  const sums = Array.from({ length: Math.max(...domains) + 1 }, () => ({ nats: 0, tokens: 0 }));
  for (const [place, index] of sequences.entries()) {
    const ids = new Int32Array(sequenceTokens);
    ids.set(all[index]!.subarray(1));
    const sum = sums[domains[index]!]!;
    // Nothing follows the last token.
    for (const loss of (await lossesOf(place, ids)).subarray(0, -1)) sum.nats += loss;
    sum.tokens += sequenceTokens - 1;
    await nextTurn();
  }
  return sums.map(({ nats, tokens }) => nats / tokens);
}

/** Runs the walkers of one family from the attention's output through their experts. */
async function walkExperts(
  { source, stream, options }: LayerPass,
  layer: { readonly experts: LayerExperts; readonly goal: Goal; readonly errorShare: number },
  walkers: readonly Walker[],
): Promise<void> {
  const { experts, goal, errorShare: share } = layer;
  const { hiddenSize, sequenceTokens } = stream;
  const numExperts = experts.experts.length;
  const routes = new Map<Walker, Uint16Array>();
  for (const walker of walkers) {
    const { routes: given, onErrors } = walker.variant;
    if (given !== "free") routes.set(walker, pickRoutes(given, walker.sequences, sequenceTokens));
    if (given !== "free" && !onErrors) continue;
    // These walkers take all sequences.
    const costs = new Float32Array(stream.numTokens * numExperts);
    const inputs = { attended: walker.hidden, goal };
    await addErrors({ source, stream, options }, inputs, experts, { share, costs, wants: () => true });
    onErrors?.(costs);
    if (given === "free") routes.set(walker, cheapestExperts(costs, numExperts));
  }
  for (const expert of experts.experts.keys()) {
    await withSession(expertGraph(source, experts, expert), options, async (session) => {
      for (const [{ hidden }, own] of routes) {
        options.signal?.throwIfAborted();
        const tokens = Int32Array.from(own.keys()).filter((token) => own[token] === expert);
        if (tokens.length === 0) continue;
        const rows = pickRows(hidden, tokens, hiddenSize);
        const outputs = await session.run({ attended: { data: rows, dims: [tokens.length, hiddenSize] } });
        const next = floatOutput(outputs, "hidden");
        tokens.forEach((token, i) =>
          hidden.set(next.subarray(i * hiddenSize, (i + 1) * hiddenSize), token * hiddenSize),
        );
      }
      await nextTurn();
    });
  }
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
