// A server without a model for mixtures with a router in every layer, and for a pre-gating router of the same shape.

import { ExpertCache, type ExpertCacheCounters, type ExpertCacheOptions } from "../expert-cache/expert-cache.ts";
import { RouteForecast } from "../expert-cache/route-forecast.ts";
import {
  DEFAULT_READ_AHEAD,
  type ReadAheadOptions,
  type StepUses,
  type UseForecast,
} from "../expert-cache/plan-reads.ts";
import { choiceOption } from "../options.ts";
import { DEFAULT_COST_MODEL, type CostModel } from "../scheduling/cost-model.ts";
import { preGatedTrace, routeSize, type MixtureSequence, type MixtureTrace } from "./mixture-trace.ts";
import { hitRatio } from "./replay.ts";
import { serve, type ServedStep, type ServerOptions } from "./serve.ts";
import { meanOf, spreadOf, sumOf, type Spread } from "./spread.ts";
import { StepClock, type ReadChannel } from "./step-clock.ts";

/**
 * Kinds of knowledge before a layer runs: none, a forecast of later layers, or, with a pre-gating router, the experts
 * of the whole step, which are then the same in all layers.
 */
export const ROUTE_KNOWLEDGE = ["none", "forecast", "pre-gated"] as const;

/** One of `ROUTE_KNOWLEDGE`. */
export type RouteKnowledge = (typeof ROUTE_KNOWLEDGE)[number];

/** Options of `simulateMixture`. */
export interface MixtureSimulationOptions extends ServerOptions {
  readonly knowledge: RouteKnowledge;
  readonly cache: Omit<ExpertCacheOptions, "layout">;
  /** Limits of the estimated uses that are read ahead. @default DEFAULT_READ_AHEAD */
  readonly readAhead?: ReadAheadOptions | undefined;
  /** Costs of steps. @default DEFAULT_COST_MODEL */
  readonly cost?: CostModel | undefined;
  /** Whether layers run while units are read. @default true */
  readonly overlapsReads?: boolean | undefined;
}

/** Result of a simulation. Ratios from 0 to 1, times in ms by the cost model. */
export interface MixtureSimulationResult extends ExpertCacheCounters {
  readonly hitRatio: number;
  /** Share of uses whose unit was in memory when its layer could run, whenever it was read. */
  readonly readyRatio: number;
  readonly steps: number;
  /** Mean number of distinct experts of a layer in a step. */
  readonly meanDistinctExperts: number;
  readonly durationMs: number;
  /** Part of `durationMs` in which no layer ran because units were missing. */
  readonly stallMs: number;
  /** Latency of sequences, from arrival to the last token. */
  readonly latencyMs: Spread;
  /** Latency of sequences, divided by their output tokens. */
  readonly normalizedLatencyMs: Spread;
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
  const served = sequences.map((sequence) => ({
    ...sequence,
    experts: Array.from({ length: sequence.routes.length / routeSize(trace) }, () => 0),
  }));
  const { latencies, normalized } = serve(served, options, {
    cost,
    nowMs: () => clock.nowMs,
    missingBytes: () => [],
    run,
  });
  const { counters } = cache;
  return {
    ...counters,
    hitRatio: hitRatio(counters),
    readyRatio: hitRatio({ hits: counters.uses - clock.waits, uses: counters.uses }),
    steps: distinct.length,
    meanDistinctExperts: meanOf(distinct),
    durationMs: clock.nowMs,
    stallMs: clock.stallMs,
    latencyMs: spreadOf(latencies),
    normalizedLatencyMs: spreadOf(normalized),
  };
}

/** A token of a step. */
interface Row {
  readonly sequence: MixtureSequence;
  /** Number of the sequence. */
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
