// Gauges and counts that engines keep themselves, read at every scrape.

import type { EngineStats } from "@readme-moe/core";
import type { ServedModels } from "../served-models.ts";
import type { Instruments, Naming, Sample } from "./instruments.ts";
import { statsReader } from "./read-stats.ts";

type Read = (stats: EngineStats) => number | undefined;
type Cache = NonNullable<EngineStats["expertCache"]>;

const ofCache =
  (read: (cache: Cache) => number): Read =>
  ({ expertCache }) =>
    expertCache && read(expertCache);

export function statsMetrics(instruments: Instruments, models: ServedModels): void {
  const readStats = statsReader(models);
  const samples = async (read: Read): Promise<readonly Sample[]> =>
    (await readStats()).flatMap(({ name, stats }) => {
      const value = read(stats);
      return value === undefined ? [] : [{ labels: { model_name: name }, value }];
    });
  const gauge = (naming: Naming, read: Read): void => instruments.gauge(naming, () => samples(read));
  const cacheGauge = (name: string, help: string, read: (cache: Cache) => number): void =>
    gauge({ name, help }, ofCache(read));
  const cacheCount = (name: string, help: string, read: (cache: Cache) => number): void =>
    instruments.readCounter({ name, help }, () => samples(ofCache(read)));

  gauge({ name: "num_requests_running", help: "Sequences with KV memory", isVllm: true }, (stats) => stats.numRunning);
  gauge(
    { name: "num_requests_waiting", help: "Sequences that wait for it", isVllm: true },
    (stats) => stats.numWaiting,
  );
  gauge(
    { name: "kv_cache_usage_perc", help: "Share of the KV memory in use, 0 to 1", isVllm: true },
    ({ kvUsedTokens, kvCapacityTokens }) => kvUsedTokens / kvCapacityTokens,
  );
  gauge({ name: "engine_resident_bytes", help: "Memory of the process of the engine" }, (stats) => stats.residentBytes);

  cacheGauge("expert_cache_budget_bytes", "Memory that experts may have", (cache) => cache.budgetBytes);
  cacheGauge("expert_cache_resident_bytes", "Memory that experts have", (cache) => cache.usedBytes);
  cacheCount("expert_cache_hits_total", "Uses of units that were in memory", (cache) => cache.hits);
  cacheCount("expert_cache_misses_total", "Uses of units that were not", (cache) => cache.uses - cache.hits);
  cacheCount("expert_cache_evictions_total", "Units that left memory", (cache) => cache.evictions);
  cacheCount("expert_cache_bytes_loaded_total", "Bytes read for experts", (cache) => cache.bytesRead);
  cacheCount("expert_prefetch_issued_total", "Units that were read", (cache) => cache.loads);
  cacheCount("expert_prefetch_wasted_total", "Of those, units that nobody used", (cache) => cache.wastedLoads);
  cacheCount("expert_prefetch_wasted_bytes_total", "Bytes read that nobody used", (cache) => cache.wastedBytes);
  cacheCount("expert_stall_seconds_total", "Time in which steps waited for reads", (cache) => cache.stallMs / 1000);

  instruments.gauge(
    {
      name: "cache_config_info",
      help: "Sizes of the KV memory, as labels",
      labelNames: ["model_name", "kv_cache_size_tokens", "max_num_seqs"],
      isVllm: true,
    },
    () =>
      models.list().map(({ name, engine: { info } }) => {
        const sizes = { kv_cache_size_tokens: `${info.kvCapacityTokens}`, max_num_seqs: `${info.maxNumSeqs}` };
        return { labels: { model_name: name, ...sizes }, value: 1 };
      }),
  );
}
