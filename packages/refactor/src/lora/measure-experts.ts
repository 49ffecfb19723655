// Losses of trained experts on held-out text, by way to choose among them.

import type { Evaluation } from "../tuning/options.ts";
import { evaluationOf } from "../tuning/train.ts";
import type { TextSequence } from "../tuning/tuning-data.ts";
import { withKeptRouter, type KeptRouter } from "../tuning/tuning-router.ts";
import type { AdaptedModel } from "./adapted-model.ts";
import { lossesOfTokens, meanLoss, type LossOptions } from "./token-losses.ts";
import type { TrainedExperts } from "./train-experts.ts";

export interface Measurement {
  readonly losses: Readonly<Record<"dense" | "label" | "router", Evaluation>> & { readonly rival?: Evaluation };
  /** Share of each kind's tokens by expert, "none" first. */
  readonly routes: readonly (readonly number[])[];
}

export interface MeasuredExperts {
  readonly model: AdaptedModel;
  readonly trained: TrainedExperts;
  /** Held-out sequences of all kinds. */
  readonly test: readonly TextSequence[];
  readonly router: KeptRouter;
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
}

export async function measureExperts(setting: MeasuredExperts): Promise<Measurement> {
  const { model, trained, test, router, threads, signal } = setting;
  const adapters = trained.own;
  const routeOf = await routesOf(test, router, threads);
  const evaluate = async (options: Omit<LossOptions, "signal">): Promise<Evaluation> =>
    evaluationOf(0, test, (await lossesOfTokens(model, test, { ...options, signal })).map(meanLoss));
  const dense = await evaluate({ adapters: [] });
  const rival = trained.rival && (await evaluate({ adapters: [trained.rival] }));
  const label = await evaluate({
    adapters,
    route: ({ tokenIds, domain }) => new Uint16Array(tokenIds.length).fill(domain + 1),
  });
  const learned = await evaluate({ adapters, route: (sequence) => routeOf.get(sequence) ?? new Uint16Array() });
  const counts = trained.own.map((_, kind) => sharesOf(test, routeOf, kind, adapters.length + 1));
  return { losses: { dense, ...(rival ? { rival } : {}), label, router: learned }, routes: counts };
}

async function routesOf(
  test: readonly TextSequence[],
  router: KeptRouter,
  threads: number | undefined,
): Promise<ReadonlyMap<TextSequence, Uint16Array>> {
  return withKeptRouter(router, threads, async (route) => {
    const routes = new Map<TextSequence, Uint16Array>();
    for (const sequence of test) routes.set(sequence, await route(sequence.tokenIds));
    return routes;
  });
}

function sharesOf(
  test: readonly TextSequence[],
  routes: ReadonlyMap<TextSequence, Uint16Array>,
  kind: number,
  numExperts: number,
): readonly number[] {
  const counts = Array.from({ length: numExperts }, () => 0);
  for (const sequence of test.filter(({ domain }) => domain === kind)) {
    for (const expert of routes.get(sequence) ?? []) counts[expert]!++;
  }
  const all = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => (all > 0 ? count / all : 0));
}
