// A server without a model: a scheduler and an expert cache run a trace, on a clock of given costs.

import { inEveryLayer } from "../expert-cache/cached-units.ts";
import { ExpertCache, type ExpertCacheCounters, type ExpertCacheOptions } from "../expert-cache/expert-cache.ts";
import { forecastNextStep, includePrefetched } from "../expert-cache/next-step.ts";
import { DEFAULT_COST_MODEL, predictStepMs, type CostModel } from "../scheduling/cost-model.ts";
import { cacheBounds, hitRatio, type CacheBounds } from "./replay.ts";
import { serve, type ServerOptions } from "./serve.ts";
import { meanOf, spreadOf, sumOf, type Spread } from "./spread.ts";
import { StepClock } from "./step-clock.ts";
import { distinctExperts, type ExpertTrace, type TraceStep } from "./trace.ts";

/** Options of `simulate`. */
export interface SimulationOptions extends ServerOptions {
  readonly cache: Omit<ExpertCacheOptions, "layout">;
  /** Costs of steps, which the scheduler knows too. @default DEFAULT_COST_MODEL */
  readonly cost?: CostModel | undefined;
  /** Whether layers run while units are read. @default true */
  readonly overlapsReads?: boolean | undefined;
}

/** Result of a simulation. Ratios from 0 to 1, times in ms by the cost model. */
export interface SimulationResult extends ExpertCacheCounters {
  readonly hitRatio: number;
  readonly bounds: CacheBounds;
  /** The steps that ran; they may be added to a trace. */
  readonly steps: readonly TraceStep[];
  /** Mean over steps. */
  readonly meanDistinctExperts: number;
  /** Time from the first step to the end of the last; steps without sequences take no time. */
  readonly durationMs: number;
  /** Part of `durationMs` in which no layer ran because units were missing. */
  readonly stallMs: number;
  /** Latency of sequences, from arrival to the last token. */
  readonly latencyMs: Spread;
  /** Latency of sequences, divided by their output tokens. */
  readonly normalizedLatencyMs: Spread;
}

/**
 * Runs a trace to its end. Deterministic if scheduler and policy are.
 *
 * The cache knows what an engine's cache knows: the running step, the tokens of the next step that already exist, and
 * estimates of later steps.
 *
 * @throws {RangeError} if the scheduler breaks its contract, or one layer of a step exceeds the budget
 */
export function simulate(trace: ExpertTrace, options: SimulationOptions): SimulationResult {
  const { cost = DEFAULT_COST_MODEL, overlapsReads = true } = options;
  const { layout } = trace;
  const { numExperts } = layout;
  const cache = new ExpertCache({ ...options.cache, layout });
  const clock = new StepClock(cache, layout, { cost, overlapsReads });
  const steps: TraceStep[] = [];
  let forecastIds: readonly string[] = [];
  const { latencies, normalized } = serve(trace.sequences, options, {
    cost,
    nowMs: () => clock.nowMs,
    missingBytes: () => cache.missingBytes(),
    adjust: (scheduled, state) =>
      includePrefetched(scheduled, state, { experts: cache.prefetchedExperts(), sequences: forecastIds }),
    run: ({ step, batch, numTokens, state, waiting }) => {
      const tokensPerExpert = Array.from({ length: numExperts }, () => 0);
      for (const { id, nextExperts } of batch) {
        for (const expert of nextExperts.slice(0, numTokens.get(id))) {
          tokensPerExpert[expert] = (tokensPerExpert[expert] ?? 0) + 1;
        }
      }
      const experts = distinctExperts({ tokensPerExpert });
      const work = {
        tokens: sumOf(tokensPerExpert),
        distinctExperts: experts.length,
        cachedTokens: sumOf(batch.map(({ numComputedTokens }) => numComputedTokens)),
        missingBytes: sumOf(experts.map((expert) => state.missingBytes[expert] ?? 0)),
      };
      const { scheduler } = options;
      const stepMs = predictStepMs(cost, work);
      const nextStep = forecastNextStep({ state, runningTokens: numTokens, stepMs, scheduler, waiting, numExperts });
      forecastIds = nextStep.sequences;
      const upcoming = { planned: inEveryLayer(layout, nextStep.planned), laterSteps: nextStep.laterSteps };
      clock.runStep(inEveryLayer(layout, experts), work, upcoming);
      steps.push({ step, tokensPerExpert });
    },
  });
  return {
    ...cache.counters,
    hitRatio: hitRatio(cache.counters),
    bounds: cacheBounds(steps, layout, options.cache.budgetBytes),
    steps,
    meanDistinctExperts: meanOf(steps.map((step) => distinctExperts(step).length)),
    durationMs: clock.nowMs,
    stallMs: clock.stallMs,
    latencyMs: spreadOf(latencies),
    normalizedLatencyMs: spreadOf(normalized),
  };
}
