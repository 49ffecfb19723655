// A server without a model: a scheduler and an expert cache run a trace, on a clock of given costs.

import {
  inEveryLayer,
  ExpertCache,
  type ExpertCacheCounters,
  type ExpertCacheOptions,
  forecastNextStep,
  includePrefetched,
  DEFAULT_COST_MODEL,
  predictStepMs,
  type CostModel,
  type ExpertTrace,
  type TraceStep,
  RouteForecast,
  DEFAULT_READ_AHEAD,
  type ReadAheadOptions,
  type StepUses,
  type UseForecast,
  choiceOption,
} from "@readme-moe/core";
import { distinctExperts, preGatedTrace, routeSize, type MixtureSequence, type MixtureTrace } from "./read-trace.ts";
import { cacheBounds, hitRatio, type CacheBounds } from "./replay.ts";
import {
  serve,
  type ServerOptions,
  meanOf,
  spreadOf,
  sumOf,
  type Spread,
  type ServedLatencies,
  type ServedStep,
  StepClock,
  type ReadChannel,
} from "./serve.ts";

/** Options of `simulate`. */
export interface SimulationOptions extends ServerOptions {
  readonly cache: Omit<ExpertCacheOptions, "layout">;
  /** Costs of steps, which the scheduler knows too. @default DEFAULT_COST_MODEL */
  readonly cost?: CostModel | undefined;
  /** Whether layers run while units are read. @default true */
  readonly overlapsReads?: boolean | undefined;
}

/** Figures of a simulation. Ratios from 0 to 1, times in ms by the cost model. */
export interface SimulationFigures extends ExpertCacheCounters {
  readonly hitRatio: number;
  /** Mean over steps, and over the layers of mixtures. */
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

/** Result of `simulate`. */
export interface SimulationResult extends SimulationFigures {
  readonly bounds: CacheBounds;
  /** The steps that ran; they may be added to a trace. */
  readonly steps: readonly TraceStep[];
}

/** @param distinct - experts of each step */
function figuresOf(
  { counters }: ExpertCache,
  { nowMs, stallMs }: StepClock,
  { latencies, normalized }: ServedLatencies,
  distinct: readonly number[],
): SimulationFigures {
  return {
    ...counters,
    hitRatio: hitRatio(counters),
    meanDistinctExperts: meanOf(distinct),
    durationMs: nowMs,
    stallMs,
    latencyMs: spreadOf(latencies),
    normalizedLatencyMs: spreadOf(normalized),
  };
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
  const served = serve(trace.sequences, options, {
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
  const distinct = steps.map((step) => distinctExperts(step).length);
  return {
    ...figuresOf(cache, clock, served, distinct),
    bounds: cacheBounds(steps, layout, options.cache.budgetBytes),
    steps,
  };
}

/**
 * Kinds of knowledge before a layer runs: none, a forecast of later layers, or, with a pre-gating router, the experts
 * of the whole step, which are then the same in all layers.
 */
export const ROUTE_KNOWLEDGE = ["none", "forecast", "pre-gated"] as const;

/** One of `ROUTE_KNOWLEDGE`. */
export type RouteKnowledge = (typeof ROUTE_KNOWLEDGE)[number];

/** Options of `simulateMixture`. */
export interface MixtureSimulationOptions extends SimulationOptions {
  readonly knowledge: RouteKnowledge;
  /** Limits of the estimated uses that are read ahead. @default DEFAULT_READ_AHEAD */
  readonly readAhead?: ReadAheadOptions | undefined;
}

/** Result of `simulateMixture`. */
export interface MixtureSimulationResult extends SimulationFigures {
  /** Share of uses whose unit was in memory when its layer could run, whenever it was read. */
  readonly readyRatio: number;
  readonly steps: number;
}

/**
 * Runs a trace to its end. Deterministic if scheduler and policy are. As in an engine, the last layer runs only tokens
 * whose logits are wanted.
 *
 * @throws {RangeError} if the scheduler breaks its contract, or one layer of a step exceeds the budget
 */
export function simulateMixture(trace: MixtureTrace, options: MixtureSimulationOptions): MixtureSimulationResult {
  const { cost = DEFAULT_COST_MODEL, overlapsReads = true } = options;
  const knowledge = choiceOption("knowledge", options.knowledge, ROUTE_KNOWLEDGE);
  const { layout, expertsPerToken, sequences } = knowledge === "pre-gated" ? preGatedTrace(trace) : trace;
  const numLayers = layout.layerBytes.length;
  const cache = new ExpertCache({ ...options.cache, layout });
  const clock = new StepClock(cache, layout, { cost, overlapsReads });
  const shape = { numLayers, numExperts: layout.numExperts, expertsPerToken };
  const { layersAhead, leastChance } = { ...DEFAULT_READ_AHEAD, ...options.readAhead };
  const reach = Math.min(layersAhead, numLayers - 1);
  const forecast = knowledge === "forecast" ? new RouteForecast({ ...shape, layersAhead: reach }) : undefined;
  const known = new Map(sequences.map((sequence, number) => [sequence.id, { sequence, number }]));
  const distinct: number[] = [];

  const run = ({ batch, numTokens }: ServedStep): void => {
    const rows = batch.flatMap(({ id, numComputedTokens }) => {
      const own = known.get(id);
      if (!own) return [];
      return Array.from({ length: numTokens.get(id) ?? 0 }, (_, index) => ({
        ...own,
        token: numComputedTokens + index,
      }));
    });
    forecast?.beginStep(rows.map(({ number }) => number));
    const routes = layout.layerBytes.map((_, layer) => layerRoutes(rows, layer, trace));
    const running: StepUses = routes.map(({ experts }) => Array.from(new Set(experts)).sort((a, b) => a - b));
    const laterSteps = Array.from({ length: layout.numExperts }, (_, expert) =>
      running[0]?.includes(expert) ? 1 : Infinity,
    );
    const usesAt = (layer: number, channel: ReadChannel): UseForecast => {
      // Most tokens keep their experts, which is the best estimate for a token that is not sampled yet.
      if (knowledge === "pre-gated") return { layer, running, laterSteps };
      const uses = { layer, running: running.map((experts, at) => (at === layer ? experts : [])) };
      const own = routes[layer];
      if (!forecast || !own) return uses;
      forecast.observe(layer, own.experts, own.rows);
      return { ...uses, estimates: { chances: forecast.chances, layersAhead, leastChance, ...channel } };
    };
    distinct.push(meanOf(running.map(({ length }) => length)));
    const work = {
      tokens: rows.length,
      distinctExperts: distinct.at(-1) ?? 0,
      cachedTokens: sumOf(batch.map(({ numComputedTokens }) => numComputedTokens)),
    };
    clock.runLayers(numLayers, work, usesAt);
  };
  // The scheduler sees one expert, as of a dense model: routes are unknown to it.
  const unrouted = sequences.map((sequence) => ({
    ...sequence,
    experts: Array.from({ length: sequence.routes.length / routeSize(trace) }, () => 0),
  }));
  const served = serve(unrouted, options, { cost, nowMs: () => clock.nowMs, missingBytes: () => [], run });
  const { uses } = cache.counters;
  return {
    ...figuresOf(cache, clock, served, distinct),
    readyRatio: hitRatio({ hits: uses - clock.waits, uses }),
    steps: distinct.length,
  };
}

/** A token of a step. */
interface Row {
  readonly sequence: MixtureSequence;
  readonly number: number;
  readonly token: number;
}

/** Collects the experts of a layer's rows, and which rows it runs. */
function layerRoutes(rows: readonly Row[], layer: number, { layout, expertsPerToken }: MixtureTrace) {
  const numLayers = layout.layerBytes.length;
  const experts: number[] = [];
  const routed: number[] = [];
  for (const [row, { sequence, token }] of rows.entries()) {
    const isLast = layer === numLayers - 1;
    // Tokens before a prompt's last one have no wanted logits.
    if (isLast && token < sequence.promptTokens - 1) continue;
    const at = (token * numLayers + layer) * expertsPerToken;
    const own = sequence.routes.subarray(at, at + expertsPerToken);
    if (own.includes(-1)) continue;
    experts.push(...own);
    routed.push(row);
  }
  return { experts, rows: routed };
}
