// Measures the parts of an engine's step from outside, by wrapping them in objects that read the clock.

import type { PreGatingRouter, RouterState } from "@readme-moe/core";
import { KernelRunner } from "@readme-moe/engine";
import type { Model } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { median } from "../kit/statistics.ts";
import type { DecodeCase } from "../decode-steps.ts";
import { decodingCore } from "../decoding-core.ts";
import { ENGINE_PARTS, type EngineFigures, type EnginePart, type Job } from "./jobs.ts";

/** Sampling of typical requests; each step has to find the tail that top-p removes. */
const SAMPLING = { temperature: 1, topP: 0.95 } as const;

export async function engineFigures(
  model: Model,
  job: Extract<Job, { readonly kind: "engine" }>,
): Promise<readonly EngineFigures[]> {
  const runner = await KernelRunner.open(model, job);
  const choice = model.experts.names.length > 1 && !model.router ? 0 : undefined;
  const router = await openRouter(model, choice, job);
  const { tokenizer } = await model.loadText();
  const figures: EngineFigures[] = [];
  for (const one of job.cases) {
    const watch = new Watch();
    const engine = await decodingCore({
      runner: {
        model,
        expertNames: runner.expertNames,
        openKv: runner.openKv.bind(runner),
        forward: watch.timed("forward", runner.forward.bind(runner)),
        keepsLogits: runner.keepsLogits.bind(runner),
        dispose: async () => undefined,
      },
      tokenizer,
      router: dealing({ ...methodsOf(router), route: watch.timed("router", router.route.bind(router)) }, one),
      numSeqs: one.numSeqs,
      past: one.past,
      rounds: job.rounds,
      params: SAMPLING,
      onEvent: () => undefined,
    });
    const steps: Step[] = [];
    for (let round = 0; round < job.rounds; round++) steps.push(await watch.step(() => engine.core.step()));
    figures.push(summed(steps));
  }
  await router.dispose();
  await runner.dispose();
  return figures;
}

type Watched = "forward" | "router";

/** Times of one step's parts, and start and end of its forward pass. */
interface Step {
  readonly ms: number;
  readonly took: Readonly<Record<Watched, number>>;
  readonly beforeForwardMs: number;
}

class Watch {
  #took = { forward: 0, router: 0 };
  #forwardAtMs = 0;

  timed<Args extends readonly unknown[], Result>(part: Watched, work: (...args: Args) => Promise<Result>) {
    return async (...args: Args): Promise<Result> => {
      const startMs = performance.now();
      if (part === "forward") this.#forwardAtMs = startMs;
      const result = await work(...args);
      this.#took[part] += performance.now() - startMs;
      return result;
    };
  }

  async step(work: () => Promise<void>): Promise<Step> {
    this.#took = { forward: 0, router: 0 };
    const startMs = performance.now();
    await work();
    return { ms: performance.now() - startMs, took: this.#took, beforeForwardMs: this.#forwardAtMs - startMs };
  }
}

function summed(steps: readonly Step[]): EngineFigures {
  const of = (part: EnginePart): number => median(steps.map((step) => partsOf(step)[part]));
  const parts = Object.fromEntries(ENGINE_PARTS.map((part) => [part, of(part)])) as EngineFigures["parts"];
  return { step: median(steps.map(({ ms }) => ms)), parts };
}

/** Router time after the forward pass: a step that only decodes routes its tokens there. */
export function partsOf({ ms, took, beforeForwardMs }: Step): Readonly<Record<EnginePart, number>> {
  return {
    "forward pass": took.forward,
    router: took.router,
    scheduling: beforeForwardMs,
    "sampling, events": ms - beforeForwardMs - took.forward - took.router,
  };
}

/** Routes with `router`, then assigns sequences to a given number of experts in turn. */
function dealing(router: PreGatingRouter, { distinct }: DecodeCase): PreGatingRouter {
  const places = new Map<RouterState, number>();
  return {
    ...router,
    start: () => {
      const state = router.start();
      places.set(state, places.size);
      return state;
    },
    route: async (inputs) => {
      const routes = await router.route(inputs);
      return routes.map((route, index) => {
        const place = places.get((inputs[index] as (typeof inputs)[number]).state) ?? 0;
        return { ...route, experts: new Uint16Array(route.experts.length).fill(place % distinct) };
      });
    },
  };
}

function methodsOf(router: PreGatingRouter): PreGatingRouter {
  return {
    numExperts: router.numExperts,
    start: () => router.start(),
    route: (inputs) => router.route(inputs),
    release: (state) => router.release(state),
    dispose: () => router.dispose(),
  };
}
