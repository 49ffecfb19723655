// A server without a model and with an LRU cache, step by step in the simplest way: every sequence runs in each step,
// missing units are read before anything else happens, and the least recently used unit is evicted.

import { predictStepMs, type CostModel, type ExpertTrace } from "@readme-moe/core";

export function plainLruServer(
  { layout, sequences }: ExpertTrace,
  { chunkTokens, budgetBytes, cost }: { chunkTokens: number; budgetBytes: number; cost: CostModel },
) {
  const live: { id: string; known: number; done: number; arrivalMs: number }[] = [];
  // In the order in which they were used.
  let cached: string[] = [];
  const bytesOf = (unit: string): number => layout.layerBytes[Number(unit.split(":")[0])] as number;
  const size = (units: readonly string[]): number => units.reduce((sum, unit) => sum + bytesOf(unit), 0);
  const latencies = new Map<string, number>();
  const distinct: number[] = [];
  const totals = { uses: 0, hits: 0, loads: 0, evictions: 0, bytesRead: 0 };
  let nowMs = 0;
  for (let step = 0; latencies.size < sequences.length; step++) {
    for (const { id, arrivalStep, promptTokens } of sequences) {
      if (arrivalStep === step) live.push({ id, known: promptTokens, done: 0, arrivalMs: nowMs });
    }
    if (live.length === 0) continue;
    const experts = new Set<number>();
    const work = { tokens: 0, distinctExperts: 0, cachedTokens: 0, missingBytes: 0 };
    for (const one of live) {
      const route = sequences.find(({ id }) => id === one.id)?.experts ?? [];
      const end = Math.min(one.known, (Math.floor(one.done / chunkTokens) + 1) * chunkTokens);
      work.tokens += end - one.done;
      work.cachedTokens += one.done;
      for (; one.done < end; one.done++) experts.add(route[one.done] as number);
    }
    work.distinctExperts = experts.size;
    distinct.push(experts.size);
    for (const layer of layout.layerBytes.keys()) {
      const units = Array.from(experts)
        .sort((a, b) => a - b)
        .map((expert) => `${layer}:${expert}`);
      for (const unit of units) {
        totals.uses++;
        if (cached.includes(unit)) {
          totals.hits++;
          continue;
        }
        while (size(cached) + bytesOf(unit) > budgetBytes) {
          const victim = cached.find((other) => !units.includes(other));
          cached = cached.filter((other) => other !== victim);
          totals.evictions++;
        }
        totals.loads++;
        totals.bytesRead += bytesOf(unit);
        work.missingBytes += bytesOf(unit);
        cached.push(unit);
      }
      // Units of one layer are used at the same time, and leave in their order.
      cached = [...cached.filter((other) => !units.includes(other)), ...units];
    }
    nowMs += predictStepMs(cost, work);
    for (const one of live.slice()) {
      if (one.done < one.known) continue;
      one.known++;
      const sequence = sequences.find(({ id }) => id === one.id);
      if (one.known <= (sequence?.experts.length ?? 0)) continue;
      latencies.set(one.id, nowMs - one.arrivalMs);
      live.splice(live.indexOf(one), 1);
    }
  }
  return { ...totals, distinct, latencies, durationMs: nowMs };
}
