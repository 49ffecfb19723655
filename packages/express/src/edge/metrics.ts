// Prometheus metrics of a server: counts of events, and gauges that are read at every scrape.

import type { DraftCounts, EngineStats, ReadMeEmitter } from "@readme-moe/core";
import { collectDefaultMetrics, Registry } from "prom-client";
import { within } from "../http/request.ts";
import type { Admission } from "./admission.ts";
import type { AdmissionStats } from "./admission/limits.ts";
import {
  engineLifeMetrics,
  engineMetrics,
  Instruments,
  type MetricOptions,
  type Sample,
  serverMetrics,
  VLLM,
} from "./metrics/event-metrics.ts";
import { canBeAsked, MODEL_STATES } from "./models/model-entry.ts";
import type { Heartbeat } from "./operations.ts";
import type { ServedModel } from "./models/options.ts";
import type { ServedModels } from "./served-models.ts";

export interface MetricsOptions {
  readonly models: ServedModels;
  readonly heartbeat: Heartbeat;
  readonly admission?: Admission | undefined;
  /** Bus of the events of requests. @default the bus of `models` */
  readonly events?: ReadMeEmitter | undefined;
  /** Registry of the metrics. @default a new registry, with the metrics of the process */
  readonly registry?: Registry | undefined;
  /** Whether metrics that vLLM has are also given under its names. @default false */
  readonly vllmAliases?: boolean | undefined;
}

/** @returns the registry, for `/metrics` */
export function collectMetrics(options: MetricsOptions): Registry {
  const { models, heartbeat, admission, events = models.events, vllmAliases = false } = options;
  const registry = options.registry ?? new Registry();
  if (!options.registry) collectDefaultMetrics({ register: registry });
  const instruments = new Instruments(registry, vllmAliases);
  serverMetrics(instruments, events, models.states()[0]?.name ?? "");
  engineLifeMetrics(instruments, models.events);
  if (admission) admissionGauges(instruments, admission);
  stateGauges(instruments, models, heartbeat);
  statsMetrics(instruments, models);
  models.watch(engineMetrics(instruments));
  return registry;
}

function admissionGauges(instruments: Instruments, admission: Admission): void {
  const gauge = (name: string, help: string, read: (stats: AdmissionStats) => number): void =>
    instruments.gauge(name, help, () => [{ labels: {}, value: read(admission.stats) }], { labelNames: [] });
  gauge("admission_requests", "Admitted requests", ({ requests }) => requests);
  gauge("admission_waiting_requests", "Admitted requests that the engine has not begun", ({ waiting }) => waiting);
  gauge("admission_tokens", "Upper bound of the tokens of admitted requests", ({ tokens }) => tokens);
  gauge("admission_bytes", "Bytes of admitted requests", ({ bytes }) => bytes);
  gauge("admission_arriving_requests", "Requests whose body is arriving", ({ arriving }) => arriving.requests);
  gauge("admission_arriving_bytes", "Bytes of arriving bodies", ({ arriving }) => arriving.bytes);
  gauge("admission_sending_requests", "Answers that are read and not generated", ({ sending }) => sending.requests);
  gauge("admission_sending_bytes", "Bytes of these answers", ({ sending }) => sending.bytes);
  gauge("admission_max_requests", "Limit of admitted requests", ({ limits }) => limits.requests);
  gauge("admission_max_tokens", "Limit of their tokens", ({ limits }) => limits.tokens);
  gauge("admission_max_bytes", "Limit of their bytes", ({ limits }) => limits.bytes);
}

function stateGauges(instruments: Instruments, models: ServedModels, heartbeat: Heartbeat): void {
  instruments.gauge("engine_up", "1 while the model can be asked and answers its requests, else 0", () =>
    models.states().map((state) => ({ labels: { model_name: state.name }, value: canBeAsked(state) ? 1 : 0 })),
  );
  instruments.gauge(
    "engine_state",
    "1 for the current state of the model, 0 for the others",
    () =>
      models
        .states()
        .flatMap(({ name, state: current }) =>
          MODEL_STATES.map((state) => ({ labels: { model_name: name, state }, value: state === current ? 1 : 0 })),
        ),
    { labelNames: ["model_name", "state"] },
  );
  instruments.gauge(
    "engine_overdue_seconds",
    "Time that the engine's answer to this server is overdue; an engine hangs if it exceeds a long step",
    () =>
      heartbeat
        .overdue(performance.now())
        .map(({ name, overdueMs }) => ({ labels: { model_name: name }, value: overdueMs / 1000 })),
  );
}

type Read = (stats: EngineStats) => number | undefined;
type Cache = NonNullable<EngineStats["expertCache"]>;

const ofCache =
  (read: (cache: Cache) => number | undefined): Read =>
  ({ expertCache }) =>
    expertCache && read(expertCache);

function statsMetrics(instruments: Instruments, models: ServedModels): void {
  const readStats = statsReader(models);
  const samples = async (read: Read): Promise<readonly Sample[]> =>
    (await readStats()).flatMap(({ name, stats }) => {
      const value = read(stats);
      return value === undefined ? [] : [{ labels: { model_name: name }, value }];
    });
  const gauge = (name: string, help: string, read: Read, options?: MetricOptions): void =>
    instruments.gauge(name, help, () => samples(read), options);
  const count = (name: string, help: string, read: Read, options?: MetricOptions): void =>
    instruments.readCounter(name, help, () => samples(read), options);
  const cacheGauge = (name: string, help: string, read: (cache: Cache) => number): void =>
    gauge(name, help, ofCache(read));
  const cacheCount = (name: string, help: string, read: (cache: Cache) => number | undefined): void =>
    count(name, help, ofCache(read));

  gauge("num_requests_running", "Sequences with KV memory", (stats) => stats.numRunning, VLLM);
  gauge("num_requests_waiting", "Sequences that wait for KV memory", (stats) => stats.numWaiting, VLLM);
  gauge(
    "kv_cache_usage_perc",
    "Share of the KV memory in use, 0 to 1",
    ({ kvUsedTokens, kvCapacityTokens }) => kvUsedTokens / kvCapacityTokens,
    VLLM,
  );
  count("spec_decode_num_draft_tokens_total", "Draft tokens that ran", (stats) => stats.draftedTokens, VLLM);
  count(
    "spec_decode_num_accepted_tokens_total",
    "Draft tokens that became part of an answer",
    (stats) => stats.acceptedDraftTokens,
    VLLM,
  );
  draftMetrics(instruments, readStats);
  count("prefix_disk_tokens_total", "Prompt tokens whose keys and values came from disk", (stats) => stats.diskTokens);
  gauge("engine_resident_bytes", "Memory of the engine's process", (stats) => stats.residentBytes);

  cacheGauge("expert_cache_budget_bytes", "Memory budget of experts", (cache) => cache.budgetBytes);
  cacheGauge("expert_cache_resident_bytes", "Memory that experts use", (cache) => cache.usedBytes);
  cacheCount("expert_cache_hits_total", "Uses of units that were in memory", (cache) => cache.hits);
  cacheCount("expert_cache_misses_total", "Uses of units that had to be read", (cache) => cache.uses - cache.hits);
  cacheCount("expert_cache_evictions_total", "Evicted units", (cache) => cache.evictions);
  cacheCount("expert_cache_bytes_loaded_total", "Bytes read for experts", (cache) => cache.bytesRead);
  cacheCount("expert_prefetch_issued_total", "Units that were read", (cache) => cache.loads);
  cacheCount("expert_prefetch_wasted_total", "Units that were read and never used", (cache) => cache.wastedLoads);
  cacheCount("expert_prefetch_wasted_bytes_total", "Bytes read and never used", (cache) => cache.wastedBytes);
  cacheCount("expert_forecast_issued_total", "Units read for a forecast", ({ forecast }) => forecast?.loads);
  cacheCount("expert_forecast_hits_total", "Units read for a forecast and used", ({ forecast }) => forecast?.hits);
  cacheCount("expert_forecast_misses_total", "Uses without a forecast's read", ({ forecast }) => forecast?.misses);
  cacheCount("expert_forecast_wasted_total", "Forecast reads not used", ({ forecast }) => forecast?.wastedLoads);
  cacheCount("expert_stall_seconds_total", "Time that steps waited for reads", (cache) => cache.stallMs / 1000);

  instruments.gauge(
    "cache_config_info",
    "Sizes of the KV memory, as labels",
    () =>
      models.list().map(({ name, engine: { info } }) => {
        const sizes = { kv_cache_size_tokens: `${info.kvCapacityTokens}`, max_num_seqs: `${info.maxNumSeqs}` };
        return { labels: { model_name: name, ...sizes }, value: 1 };
      }),
    { ...VLLM, labelNames: ["model_name", "kv_cache_size_tokens", "max_num_seqs"] },
  );
}

function draftMetrics(instruments: Instruments, readStats: () => Promise<readonly NamedStats[]>): void {
  const count = (name: string, help: string, read: (counts: DraftCounts) => number): void => {
    const samples = async (): Promise<readonly Sample[]> =>
      (await readStats()).flatMap(({ name: model_name, stats: { draftsBySource = {} } }) =>
        Object.entries(draftsBySource).map(([source, counts]) => ({
          labels: { model_name, source },
          value: read(counts),
        })),
      );
    instruments.readCounter(name, help, samples, { labelNames: ["model_name", "source"] });
  };
  count("draft_tokens_total", "Draft tokens that ran, by source", (counts) => counts.draftedTokens);
  count(
    "draft_tokens_accepted_total",
    "Draft tokens that became part of an answer, by source",
    (counts) => counts.acceptedDraftTokens,
  );
}

interface NamedStats {
  readonly name: string;
  readonly stats: EngineStats;
}

/** Longest wait for an engine's numbers. Scrapers give up after ten seconds. */
const PATIENCE_MS = 2000;

/**
 * Creates a function that reads the numbers of all engines: once for all metrics of a scrape, and without waiting for
 * an engine that has failed or runs a long step.
 */
function statsReader(models: ServedModels): () => Promise<readonly NamedStats[]> {
  const last = new WeakMap<object, EngineStats>();
  let reading: Promise<readonly NamedStats[]> | undefined;

  const readOne = async ({ name, engine }: ServedModel): Promise<readonly NamedStats[]> => {
    try {
      // During a long step the last numbers are still true.
      const stats = (await within(PATIENCE_MS, engine.stats())) ?? last.get(engine);
      if (!stats) return [];
      last.set(engine, stats);
      return [{ name, stats }];
    } catch {
      // A failed engine has no numbers; `engine_up` shows the failure.
      return [];
    }
  };
  const readAll = async (): Promise<readonly NamedStats[]> => (await Promise.all(models.list().map(readOne))).flat();

  // All metrics of a scrape ask before the first is answered.
  return () => (reading ??= readAll().finally(() => (reading = undefined)));
}
