// What is known of the requests that are in, put together: how far they are, where their tokens go, what steps cost.

import type { Engine } from "@readme-moe/core";
import { expectedTokensLeft, forecastQueue, sharesOf, type Forecast, type QueuedWork } from "./forecast.ts";
import { StepCosts } from "./step-costs.ts";

/** A request that is in. */
export interface Progress {
  readonly model?: string | undefined;
  readonly bytes: number;
  readonly choices: number;
  readonly maxCompletionTokens: number;
  priority: number;
  isStarted: boolean;
  /** Once it is known. */
  promptTokens: number | undefined;
  /** Of the prompt, by expert; of each choice, where there are several. Empty until they are known. */
  expertTokens: number[];
  /** Of all choices. */
  completionTokens: number;
}

const BYTES_PER_TOKEN = 4;
/** A crowd that is turned away together looks at one forecast. */
const MAX_AGE_MS = 100;
/** Of a new answer's length in the mean of lengths. */
const NEW_SHARE = 0.1;

export class Outlook {
  readonly #costs = new Map<string, { readonly engine: Pick<Engine, "events" | "info">; readonly costs: StepCosts }>();
  readonly #meanTokens = new Map<string, number>();
  #last: { readonly atMs: number; readonly forecast: Forecast | undefined } | undefined;

  /** The engine answers under this name from now on. */
  watch(name: string, engine: Pick<Engine, "events" | "info">): void {
    if (this.#costs.get(name)?.engine !== engine) this.#costs.set(name, { engine, costs: new StepCosts(engine) });
  }

  /** Learns from an answer how long they are. */
  ended({ model = "", isStarted, completionTokens, choices }: Progress): void {
    if (!isStarted) return;
    const tokens = completionTokens / choices;
    const mean = this.#meanTokens.get(model) ?? tokens;
    this.#meanTokens.set(model, mean + NEW_SHARE * (tokens - mean));
  }

  /** @returns `undefined` where what steps cost is not known of every model that is asked */
  forecast(requests: Iterable<Progress>, nowMs: number): Forecast | undefined {
    if (!this.#last || nowMs - this.#last.atMs >= MAX_AGE_MS) {
      this.#last = { atMs: nowMs, forecast: this.#compute(requests) };
    }
    const { atMs, forecast } = this.#last;
    const since = (ms: number): number => Math.max(0, ms - (nowMs - atMs));
    return forecast && { returnsMs: forecast.returnsMs.map(since), turnMs: since(forecast.turnMs) };
  }

  /** When one more could begin to run if only these were before it, in ms from now. */
  turnMs(requests: readonly Progress[]): number | undefined {
    return requests.length === 0 ? 0 : this.#compute(requests)?.turnMs;
  }

  #compute(requests: Iterable<Progress>): Forecast | undefined {
    const byModel = new Map<string, Progress[]>();
    for (const one of requests) {
      const { model = "" } = one;
      const all = byModel.get(model);
      if (all) all.push(one);
      else byModel.set(model, [one]);
    }
    const forecasts: Forecast[] = [];
    for (const [model, all] of byModel) {
      const { cost, maxNumSeqs } = this.#costs.get(model)?.costs ?? {};
      if (!cost || maxNumSeqs === undefined) return undefined;
      // Sorting keeps the order of arrival.
      const waiting = all.filter(({ isStarted }) => !isStarted).toSorted((a, b) => b.priority - a.priority);
      const queue = [...all.filter(({ isStarted }) => isStarted), ...waiting];
      const meanTokens = this.#meanTokens.get(model);
      forecasts.push(
        forecastQueue(
          queue.map((one) => workOf(one, meanTokens)),
          cost,
          maxNumSeqs,
        ),
      );
    }
    if (forecasts.length === 0) return undefined;
    return {
      returnsMs: forecasts.flatMap(({ returnsMs }) => returnsMs).toSorted((a, b) => a - b),
      turnMs: Math.max(...forecasts.map(({ turnMs }) => turnMs)),
    };
  }
}

function workOf(request: Progress, meanTokens: number | undefined): QueuedWork {
  const { choices, isStarted, bytes, completionTokens, maxCompletionTokens } = request;
  const promptTokens = request.promptTokens ?? Math.ceil(bytes / BYTES_PER_TOKEN);
  const done = completionTokens / choices;
  return {
    choices,
    promptTokens: isStarted ? 0 : promptTokens,
    contextTokens: isStarted ? promptTokens + done : 0,
    tokensLeft: expectedTokensLeft(Math.floor(done), maxCompletionTokens, meanTokens),
    shares: sharesOf(request.expertTokens),
  };
}
