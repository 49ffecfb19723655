// A server without a model and with an LRU cache, step by step in the simplest way: every sequence runs in each step,
// missing units are read before anything else happens, and the least recently used unit is evicted.

import { predictStepMs, type CostModel, type ExpertLayout, type TraceSequence } from "@readme-moe/core";

/** The served load: sequences, and the experts of their tokens, which may differ between layers. */
export interface PlainServed {
  readonly layout: ExpertLayout;
  /** `numTokens` is the number of tokens that run. */
  readonly sequences: readonly (Omit<TraceSequence, "experts"> & { readonly numTokens: number })[];
  readonly expertsAt: (id: string, token: number, layer: number) => readonly number[];
}

export function plainLruServer(
  { layout, sequences, expertsAt }: PlainServed,
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
    const experts = layout.layerBytes.map(() => new Set<number>());
    const work = { tokens: 0, distinctExperts: 0, cachedTokens: 0, missingBytes: 0 };
    for (const one of live) {
      const end = Math.min(one.known, (Math.floor(one.done / chunkTokens) + 1) * chunkTokens);
      work.tokens += end - one.done;
      work.cachedTokens += one.done;
      for (; one.done < end; one.done++) {
        for (const [layer, own] of experts.entries()) {
          for (const expert of expertsAt(one.id, one.done, layer)) own.add(expert);
        }
      }
    }
    work.distinctExperts = experts.reduce((sum, own) => sum + own.size, 0) / experts.length;
    distinct.push(work.distinctExperts);
    for (const layer of layout.layerBytes.keys()) {
      const units = Array.from(experts[layer] ?? [])
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
      if (one.known <= (sequence?.numTokens ?? 0)) continue;
      latencies.set(one.id, nowMs - one.arrivalMs);
      live.splice(live.indexOf(one), 1);
    }
  }
  return { ...totals, distinct, latencies, durationMs: nowMs };
}
