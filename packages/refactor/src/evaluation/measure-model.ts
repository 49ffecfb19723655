// What a written model is worth, on held-out text: its own router's routes, and everything that it is compared with.

import { openModel } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { readFamily } from "../job/layer-file.ts";
import { TokenStream } from "../layers/token-stream.ts";
import { planOf } from "../options.ts";
import type { RefactorJob } from "../refactor.ts";
import { evaluateVariants, leastOf, type DomainLosses, type Family, type Variant } from "./evaluate-variants.ts";

export interface Measurement {
  /** Losses by domain, by id of `LOSS_LABELS`. */
  readonly losses: ReadonlyMap<string, DomainLosses>;
  /** `[expert][domain]` */
  readonly expertLosses: readonly DomainLosses[];
  readonly stream: TokenStream;
  /** Of each token of the stream, by the model's own router. */
  readonly routes: Uint16Array;
  /** `[tokens, experts]`: squared distances from the targets, summed over layers. */
  readonly costs: Float32Array;
}

/**
 * @param folder - the written model
 * @param expertOf - of each domain, the expert that it stands for
 */
export async function measureModel(
  job: RefactorJob,
  folder: string,
  expertOf: readonly number[],
): Promise<Measurement> {
  const { model, data, grouping, options, sizes, work, run, stages } = job;
  const stream = new TokenStream(
    model.config,
    data.map(({ evaluation }) => evaluation),
    1,
  );
  const numExperts = grouping.names.length;
  const { sequenceTokens } = stream;
  const routes = await routesOf(job, folder, stream);
  const byDomain = Uint16Array.from(
    { length: stream.numTokens },
    (_, token) => expertOf[stream.domains[Math.floor(token / sequenceTokens)] as number] as number,
  );
  const costs = new Float32Array(stream.numTokens * numExperts);
  const onErrors = (_: number, errors: Float32Array): void =>
    errors.forEach((error, at) => (costs[at] = (costs[at] as number) + error));
  const family = (name: string, variants: readonly Variant[]): Family => ({
    layer: (index) => readFamily(work.layerFile(index), name),
    variants,
  });
  // Each expert on each domain is a matrix of its own: one sequence of each domain has to do.
  const samples = stream.sequences.flatMap((_, index) =>
    stream.domains[index] === stream.domains[index - 1] ? [] : [index],
  );
  const fixed = Array.from({ length: numExperts }, (_, expert) => ({
    id: `expert ${expert}`,
    routes: new Uint16Array(stream.numTokens).fill(expert),
    sequences: samples,
  }));
  const own = [
    { id: "ours", routes },
    { id: "oracle_domain", routes: byDomain, onErrors },
    { id: "free", routes: "free" as const },
    ...fixed,
  ];
  const families = [family("ours", own)];
  if (options.baselines) {
    families.push(
      family("static", [{ id: "static", routes: new Uint16Array(stream.numTokens) }]),
      family("paper", [{ id: "paper", routes: byDomain }]),
      family("random", [{ id: "random", routes: byDomain }]),
    );
  }
  const { errorShare, isSequential } = planOf(options, sizes);
  const numLayers = model.config.numLayers;
  const shared = { threads: run.threads, signal: run.signal, errorShare: isSequential ? errorShare : 0 };
  const losses = new Map(
    await evaluateVariants(model, stream, families, {
      ...shared,
      onLayer: (done) => stages.report("losses", done, 2 * numLayers),
    }),
  );
  // Which expert is best for a token is known when all layers have been seen.
  const best = family("ours", [{ id: "oracle_token", routes: leastOf(costs, numExperts) }]);
  const again = await evaluateVariants(model, stream, [best], {
    ...shared,
    withDense: false,
    onLayer: (done) => stages.report("losses", numLayers + done, 2 * numLayers),
  });
  for (const [id, loss] of again) losses.set(id, loss);
  const expertLosses = fixed.map(({ id }) => losses.get(id) as DomainLosses);
  for (const { id } of fixed) losses.delete(id);
  return { losses, expertLosses, stream, routes, costs };
}

/** By the router of the written model, each sequence from its beginning. */
async function routesOf({ work, run }: RefactorJob, folder: string, stream: TokenStream): Promise<Uint16Array> {
  const written = await openModel(folder);
  try {
    const cacheFolder = work.file("cache");
    const router = await KernelRouter.open(written, { cacheFolder, threads: run.threads });
    try {
      const routes = new Uint16Array(stream.numTokens);
      for (const [index, tokenIds] of stream.sequences.entries()) {
        const state = router.start();
        const [route] = await router.route([{ state, tokenIds }]);
        router.release(state);
        routes.set(route?.experts ?? [], index * stream.sequenceTokens);
      }
      return routes;
    } finally {
      await router.dispose();
    }
  } finally {
    await written.close();
  }
}
