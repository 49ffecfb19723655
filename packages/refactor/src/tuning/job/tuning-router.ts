// Routers of a tuning: the model's own, and those that are trained between its rounds.

import { stat } from "node:fs/promises";
import { SafetensorsFile, writeSafetensors, type Model, type RouterConfig } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { RouterTrainer } from "../../router-training/router-trainer.ts";
import type { RouterExample } from "../../router-training/router-example.ts";
import { trainRouter, type TrainedRouter } from "../../router-training/train-router.ts";
import type { ResolvedTuneOptions } from "../options.ts";
import type { Trainer } from "../training/trainer.ts";
import type { Route, TextSequence } from "./tuning-data.ts";

/** Every so many sequences are kept for choosing when to stop. */
const VALIDATION_EVERY = 10;
const LOCALITY_TOKENS = 64;

/** By the model's own router; the only expert where there is one. */
export async function withOwnRouter<Result>(
  model: Model,
  run: { readonly cacheFolder: string; readonly threads: number | undefined },
  use: (route: Route) => Promise<Result>,
): Promise<Result> {
  if (model.experts.names.length === 1) return use(async (tokenIds) => new Uint16Array(tokenIds.length));
  const router = await KernelRouter.open(model, run);
  try {
    return await use(async (tokenIds) => {
      const state = router.start();
      const [route] = await router.route([{ state, tokenIds }]);
      router.release(state);
      return Uint16Array.from(route?.experts ?? []);
    });
  } finally {
    await router.dispose();
  }
}

/** A router as a work folder keeps it. */
export interface KeptRouter {
  readonly config: RouterConfig;
  readonly parameters: ReadonlyMap<string, Float32Array>;
}

export async function withKeptRouter<Result>(
  { config, parameters }: KeptRouter,
  threads: number | undefined,
  use: (route: Route) => Promise<Result>,
): Promise<Result> {
  const trainer = await RouterTrainer.open(config, parameters, { sequences: 1, tokens: 1 }, threads);
  try {
    return await use((tokenIds) => trainer.route(tokenIds));
  } finally {
    await trainer.dispose();
  }
}

export interface RouterRound {
  readonly student: Model;
  /** With the parameters that the router is for. */
  readonly trainer: Trainer;
  readonly embedding: Float32Array;
  readonly sequences: readonly TextSequence[];
  readonly options: ResolvedTuneOptions;
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * Trains a router by how far each expert's next tokens are from the teacher's, and keeps it in `path`; or reads what is there.
 * Text that this is not measured on has the mean of its kind.
 */
export async function keptRouter(path: string, round: RouterRound): Promise<KeptRouter> {
  const isThere = await stat(path).then(
    () => true,
    () => false,
  );
  if (!isThere) {
    const { config, tensors } = await newRouter(round);
    await writeSafetensors(path, tensors, { config: JSON.stringify(config) });
  }
  const file = await SafetensorsFile.open(path);
  try {
    const parameters = new Map<string, Float32Array>();
    for (const name of file.names) parameters.set(name, await file.readFloats(name));
    return { config: JSON.parse(file.metadata.get("config") ?? "") as RouterConfig, parameters };
  } finally {
    await file.close();
  }
}

async function newRouter({
  student,
  trainer,
  embedding,
  sequences,
  options,
  threads,
  signal,
}: RouterRound): Promise<TrainedRouter> {
  const { config, experts } = student;
  const numExperts = experts.names.length;
  const perDomain = Math.ceil(options.routerTokens / options.sequenceTokens);
  const counts = new Map<number, number>();
  const measured = sequences.filter(({ domain }) => {
    const count = (counts.get(domain) ?? 0) + 1;
    counts.set(domain, count);
    return count <= perDomain;
  });
  const costs = await trainer.divergences(measured, numExperts);
  const means = new Map<number, Float64Array>();
  for (const domain of counts.keys())
    means.set(
      domain,
      meanRow(
        costs.filter((_, i) => measured[i]?.domain === domain),
        numExperts,
      ),
    );
  const examples = sequences.map(({ tokenIds, domain }): RouterExample => {
    const own = costs[measured.findIndex((other) => other.tokenIds === tokenIds)];
    return { tokenIds, costs: own ?? repeated(means.get(domain) as Float64Array, tokenIds.length) };
  });
  return trainRouter(
    examples.filter((_, index) => !isKept(index)),
    {
      numExperts,
      vocabSize: config.vocabSize,
      contextTokens: config.contextTokens,
      embedding: { values: embedding, size: config.hiddenSize },
      localityTokens: LOCALITY_TOKENS,
      steps: options.routerSteps,
      validation: examples.filter((_, index) => isKept(index)),
      seed: options.seed,
      threads,
      signal,
    },
  );
}

function isKept(index: number): boolean {
  return index % VALIDATION_EVERY === VALIDATION_EVERY - 1;
}

function meanRow(costs: readonly Float32Array[], numExperts: number): Float64Array {
  const sums = new Float64Array(numExperts);
  let rows = 0;
  for (const some of costs) {
    some.forEach((cost, at) => (sums[at % numExperts] = (sums[at % numExperts] as number) + cost));
    rows += some.length / numExperts;
  }
  return sums.map((sum) => sum / rows);
}

function repeated(row: Float64Array, times: number): Float32Array {
  return Float32Array.from({ length: times * row.length }, (_, at) => row[at % row.length] as number);
}
