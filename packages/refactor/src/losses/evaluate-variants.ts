// Measures losses of several models that share a backbone: the dense model, and experts made and chosen in several
// ways. All of them run layer by layer together, so that one layer at a time is in memory.

import { setImmediate as nextTurn } from "node:timers/promises";
import { type Model, openModel } from "@readme-moe/model";
import { addInto } from "../experts/moments.ts";
import type { LayerExperts } from "../experts/select.ts";
import type { RefactorJob } from "../job/refactor-job.ts";
import { readFamily } from "../job/work-folder.ts";
import { layerSource, type LayerSource } from "../layers/layer-graphs.ts";
import { type Goal, goalOfBatch, type PassOptions, runDense, runExperts } from "../layers/run-layer.ts";
import { type Batch, TokenStream } from "../layers/token-stream.ts";
import { errorShareOf } from "../options.ts";
import { withKernelRouter } from "../router-training/routes.ts";
import { crossEntropies, GraphPool } from "../tuning/decoder.ts";
import { readWeight } from "../tuning/weights.ts";

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
  /** Receives the weighted squared distances of a sequence from the target, `[tokens, experts]`, layer by layer. */
  readonly onErrors?: ((sequence: number, errors: Float32Array) => void) | undefined;
}

interface EvaluationOptions extends PassOptions {
  /** Share that the experts were fitted with, see `runDense`. */
  readonly errorShare: number;
  /** Whether the dense model is measured, too. @default true */
  readonly withDense?: boolean | undefined;
  readonly onLayer?: ((done: number, of: number) => void) | undefined;
}

/** Mean losses by domain, in nats; `NaN` for domains without sequences. */
export type DomainLosses = readonly number[];

/** Variants of one family on their way through a model. */
interface Walk {
  readonly family: Family;
  /** Sequences of all variants, one after another; the domain is the index of the variant. */
  readonly stream: TokenStream;
  readonly hidden: Float32Array;
  /** Sequences of each variant, as indices of the whole stream. */
  readonly sequences: readonly (readonly number[])[];
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
  const walks = families.map((family): Walk => {
    const sequences = family.variants.map((variant) => variant.sequences ?? everything);
    const groups = sequences.map((own) => own.map((index) => stream.sequences[index]!));
    return {
      family,
      sequences,
      stream: new TokenStream(model.config, groups, 1),
      hidden: stream.pick(dense, sequences.flat()),
    };
  });
  let goal: Goal = { rows: new Float32Array(), weights: new Float32Array() };
  for (let index = 0; index < numLayers; index++) {
    const source = layerSource(model, index);
    if (withDense) ({ goal } = await runDense({ source, stream, options }, dense, errorShare));
    for (const walk of walks) {
      const experts = await walk.family.layer(index);
      await walkExperts(walk, { source, options, experts }, (sequence) =>
        goalOfBatch(stream, goal, { domain: 0, firstSequence: sequence, numSequences: 1 }),
      );
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
    for (const { family, sequences, hidden } of walks) {
      let from = 0;
      for (const [index, { id }] of family.variants.entries()) {
        const own = sequences[index]!;
        const to = from + own.length * stream.sequenceTokens * hiddenSize;
        await lossesOf(id, hidden.subarray(from, to), own);
        from = to;
      }
    }
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

/** Runs the variants of one family through a layer. @param goalOf - finds the goal of a sequence */
async function walkExperts(
  { family: { variants }, stream, hidden, sequences }: Walk,
  layer: { readonly source: LayerSource; readonly options: EvaluationOptions; readonly experts: LayerExperts },
  goalOf: (sequence: number) => Goal,
): Promise<void> {
  const { source, options, experts } = layer;
  const { sequenceTokens } = stream;
  const ids = sequences.flat();
  const variantOf = ({ domain }: Batch): Variant => variants[domain]!;
  await runExperts({ source, stream, options }, hidden, experts, {
    share: options.errorShare,
    goalOf: (batch) => {
      const { routes, onErrors } = variantOf(batch);
      return routes === "free" || onErrors ? goalOf(ids[batch.firstSequence]!) : undefined;
    },
    routesOf: (batch, errors) => {
      const { routes } = variantOf(batch);
      if (routes === "free") return cheapestExperts(errors, experts.experts.length);
      const from = ids[batch.firstSequence]! * sequenceTokens;
      return routes.subarray(from, from + sequenceTokens);
    },
    onErrors: (batch, errors) => variantOf(batch).onErrors?.(ids[batch.firstSequence]!, errors),
  });
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
  const onErrors = (sequence: number, errors: Float32Array): void =>
    addInto(
      costs.subarray(sequence * sequenceTokens * numExperts, (sequence + 1) * sequenceTokens * numExperts),
      errors,
    );
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
  // All routes of a single expert are the same.
  const isSingle = numExperts === 1;
  const numWalks = isSingle ? 1 : 2;
  const chosen: readonly Variant[] = [
    { id: "oracle_domain", routes: byDomain, onErrors },
    { id: "free", routes: "free" },
    ...fixed,
  ];
  const families = [
    isSingle ? family("ours", { id: "ours", routes, onErrors }) : family("ours", { id: "ours", routes }, ...chosen),
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
    onLayer: (done) => stages.report("losses", done, numWalks * numLayers),
  });
  if (isSingle) {
    const ours = first.get("ours") ?? [];
    const same = ["oracle_domain", "oracle_token", "free"].map((id) => [id, ours] as const);
    return { losses: new Map([...first, ...same]), expertLosses: [ours], stream, routes, costs };
  }
  // The best expert of a token is known only when all layers have been measured.
  const best = family("ours", { id: "oracle_token", routes: cheapestExperts(costs, numExperts) });
  const second = await evaluateVariants(model, stream, [best], {
    ...shared,
    withDense: false,
    onLayer: (done) => stages.report("losses", numLayers + done, numWalks * numLayers),
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
