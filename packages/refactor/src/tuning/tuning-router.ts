// Routers of a tuning: the model's own, and those that are trained between its rounds.

import { existsSync } from "node:fs";
import { writeSafetensors, type Model, type ModelConfig, type RouterConfig } from "@readme-moe/model";
import { withFile } from "../job/work-folder.ts";
import { type RouterParameters, RouterTrainer } from "../router-training/router-trainer.ts";
import { repeatedCosts, splitExamples, withKernelRouter, type Route } from "../router-training/routes.ts";
import { trainRouter, type RouterTrainingOptions, type TrainedRouter } from "../router-training/train-router.ts";
import type { ResolvedTuneOptions } from "./options.ts";
import type { TextSequence } from "./tuning-data.ts";

const LOCALITY_TOKENS = 64;

/** Routes with the model's own router; a model with a single expert needs none. */
export async function withOwnRouter<Result>(
  model: Model,
  run: { readonly cacheFolder: string; readonly threads: number | undefined },
  use: (route: Route) => Promise<Result>,
): Promise<Result> {
  if (model.experts.names.length === 1) return use(async (tokenIds) => new Uint16Array(tokenIds.length));
  return withKernelRouter(model, run, use);
}

/** Router in a work folder. */
export interface KeptRouter {
  readonly config: RouterConfig;
  readonly parameters: RouterParameters;
}

export async function withKeptRouter<Result>(
  { config, parameters }: KeptRouter,
  threads: number | undefined,
  use: (route: Route) => Promise<Result>,
): Promise<Result> {
  const trainer = new RouterTrainer(config, parameters, { sequences: 1, tokens: 1 }, threads);
  try {
    return await use((tokenIds) => trainer.route(tokenIds));
  } finally {
    await trainer.dispose();
  }
}

export interface RouterRound extends Pick<
  RouterTrainingOptions,
  "numExperts" | "threads" | "signal" | "checkpointPath" | "onProgress"
> {
  readonly config: Pick<ModelConfig, "vocabSize" | "contextTokens" | "hiddenSize">;
  /** Measures the cost of each expert, `[tokens, numExperts]` per sequence. */
  readonly costs: (sequences: readonly TextSequence[]) => Promise<readonly Float32Array[]>;
  readonly embedding: Float32Array;
  readonly sequences: readonly TextSequence[];
  readonly options: Pick<ResolvedTuneOptions, "routerTokens" | "sequenceTokens" | "routerSteps" | "seed">;
}

/** Reads the router from `path`, or trains it and writes it there. */
export async function keptRouter(path: string, round: RouterRound): Promise<KeptRouter> {
  if (!existsSync(path)) {
    const { config, tensors } = await newRouter(round);
    await writeSafetensors(path, tensors, { config: JSON.stringify(config) });
  }
  return withFile(path, async (file) => {
    const parameters = new Map<string, Float32Array>();
    for (const name of file.names) parameters.set(name, await file.readFloats(name));
    const config: RouterConfig = JSON.parse(file.metadata.get("config") ?? "{}");
    return { config, parameters };
  });
}

/**
 * Trains a router on the cost of each expert for each token. Text whose costs are not measured has the mean of its
 * kind.
 */
async function newRouter({ config, embedding, sequences, options, ...round }: RouterRound): Promise<TrainedRouter> {
  const { costs: measure, numExperts, ...run } = round;
  const perDomain = Math.ceil(options.routerTokens / options.sequenceTokens);
  const counts = new Map<number, number>();
  const measured = sequences.filter(({ domain }) => {
    const count = (counts.get(domain) ?? 0) + 1;
    counts.set(domain, count);
    return count <= perDomain;
  });
  const costs = await measure(measured);
  const costsOf = new Map(measured.map(({ tokenIds }, index) => [tokenIds, costs[index]]));
  const means = new Map(
    Array.from(counts.keys(), (one) => {
      const own = costs.filter((_, index) => measured[index]?.domain === one);
      return [one, meanRow(own, numExperts)];
    }),
  );
  const { examples, validation } = splitExamples(
    sequences.map(({ tokenIds, domain }) => ({
      tokenIds,
      costs: costsOf.get(tokenIds) ?? repeatedCosts(means.get(domain)!, tokenIds.length),
    })),
  );
  return trainRouter(examples, {
    ...run,
    numExperts,
    vocabSize: config.vocabSize,
    contextTokens: config.contextTokens,
    embedding: { values: embedding, size: config.hiddenSize },
    localityTokens: LOCALITY_TOKENS,
    steps: options.routerSteps,
    validation,
    seed: options.seed,
  });
}

function meanRow(costs: readonly Float32Array[], numExperts: number): Float64Array {
  const sums = new Float64Array(numExperts);
  let rows = 0;
  for (const some of costs) {
    some.forEach((cost, at) => (sums[at % numExperts]! += cost));
    rows += some.length / numExperts;
  }
  return sums.map((sum) => sum / rows);
}
