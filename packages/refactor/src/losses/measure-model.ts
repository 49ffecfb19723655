// Measures a written model on held-out text: with its own router's routes, and beside everything it is compared with.

import { openModel } from "@readme-moe/model";
import { readFamily } from "../job/layer-file.ts";
import type { RefactorJob } from "../job/refactor-job.ts";
import { TokenStream } from "../layers/token-stream.ts";
import { errorShareOf } from "../options.ts";
import { withKernelRouter } from "../router-training/routes.ts";
import {
  cheapestExperts,
  evaluateVariants,
  type DomainLosses,
  type Family,
  type Variant,
} from "./evaluate-variants.ts";

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
