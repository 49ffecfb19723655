// Measures distinct experts and latency by the order of requests (figure 5), and records the trace for hit ratios.

import { expertBytes, recordTraceLines } from "@readme-moe/core";
import { readTrace } from "@readme-moe/refactor/simulation";
import { expertLayout, ReadMeEngine } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { routeStatistics } from "@readme-moe/router";
import { formatNumber } from "../kit/report.ts";
import { interleave } from "../kit/turns.ts";
import { median } from "../kit/statistics.ts";
import type { ReportTable, SuiteContext } from "../kit/suite.ts";
import { type Sample, valuesOf } from "../kit/samples.ts";
import { measure } from "../scheduling/measure.ts";
import { SCHEDULERS } from "../scheduling/schedulers.ts";
import { requestsOf } from "../scheduling/workload.ts";
import { DISTINCT_EXPERTS, LESS_LATENCY, LOCALITY } from "./paper-numbers.ts";

/** Budget while the trace is recorded, as a share of all experts' bytes: the trace then has the cache's requests. */
const RECORDED_BUDGET = 4 / 7;
const METRICS = { experts: "distinct experts", mean: "ms/token, mean", p95: "ms/token, p95" } as const;

export interface Load {
  /** Paths of texts. */
  readonly paths: readonly string[];
  readonly numRequests: number;
  /** Sequences in a step, and concurrent requests as a multiple of that. */
  readonly batch: number;
  readonly times: number;
}

export function loadOf({ settings }: SuiteContext): Load {
  const paths = settings.data.length > 0 ? settings.data : ["models/pocket/calibration"];
  return settings.quick
    ? { paths, numRequests: 12, batch: 4, times: 2 }
    : { paths, numRequests: 48, batch: 12, times: 2 };
}

function sharedOf({ settings }: SuiteContext, { batch, times }: Load) {
  const { threads, cacheFolder } = settings;
  const limits = { maxNumSeqs: batch * times, maxNumBatchedSeqs: batch, prefixCacheBytes: 0 };
  return { precision: "int8", threads, cacheFolder, ...limits } as const;
}

export async function measureSchedulers(context: SuiteContext, load: Load): Promise<readonly Sample[]> {
  const { paths, numRequests, batch, times } = load;
  const engine = await ReadMeEngine.open(context.settings.model, sharedOf(context, load));
  try {
    const requests = await requestsOf(engine, paths, numRequests, context.settings.seed);
    // The warm-up allocates memory and learns coefficients; it is not counted.
    await measure(engine, requests.slice(0, batch), batch);
    const variants = Object.entries(SCHEDULERS).map(([name, options]) => ({
      name,
      measure: async () => {
        await engine.setScheduling(options);
        const measured = await measure(engine, requests, times * batch);
        return [
          { metric: METRICS.experts, value: measured.distinctExperts },
          { metric: METRICS.mean, value: measured.meanMsPerToken },
          { metric: METRICS.p95, value: measured.p95MsPerToken },
        ];
      },
    }));
    return (await interleave(context, "schedulers", variants)).samples;
  } finally {
    await engine.dispose();
  }
}

export function schedulersTable(samples: readonly Sample[]): ReportTable {
  const of = (variant: string, metric: string): number => median(valuesOf(samples, { variant, metric }));
  const less = (variant: string, other: string, metric: string): string =>
    variant === other ? "–" : `${formatNumber(100 * (1 - of(variant, metric) / of(other, metric)), 1)} %`;
  return {
    title: "Figure 5: distinct experts in a step, and latency by token",
    columns: [
      "order",
      "experts, paper",
      "experts",
      "mean, ms",
      "p95, ms",
      "mean, less than decode first",
      "less than prefill first",
      "p95, less than decode first",
      "less than prefill first",
    ],
    rows: Object.keys(SCHEDULERS).map((name) => [
      name,
      (DISTINCT_EXPERTS as Readonly<Record<string, number>>)[name]?.toFixed(2) ?? "–",
      of(name, METRICS.experts).toFixed(2),
      formatNumber(of(name, METRICS.mean)),
      formatNumber(of(name, METRICS.p95)),
      ...[METRICS.mean, METRICS.p95].flatMap((metric) =>
        ["decode-first", "prefill-first"].map((other) => less(name, other, metric)),
      ),
    ]),
    notes: [
      `The paper: ${LESS_LATENCY.mean} % less on the mean, ${LESS_LATENCY.p95} % less at p95; no milliseconds in its text.`,
      "Why they differ: here all requests start at once and each finished one is followed by the next; the cost of a step depends more on its distinct experts than on a GPU, where a batch is bound by memory; prefill is chunked in all orders.",
    ],
  };
}

/** Runs requests with streamed experts and the paper's algorithm. @returns the lines of the trace */
export async function recordedTrace(context: SuiteContext, load: Load): Promise<string> {
  const { model: path, seed } = context.settings;
  const model = await openModel(path);
  const layout = expertLayout(model);
  await model.close();
  const expertCacheBytes = Math.ceil(RECORDED_BUDGET * layout.numExperts * expertBytes(layout));
  const options = { ...sharedOf(context, load), scheduler: "read-me", expertCacheBytes } as const;
  const engine = await ReadMeEngine.open(path, options);
  try {
    const requests = await requestsOf(engine, load.paths, load.numRequests, seed);
    const lines: string[] = [];
    const stop = recordTraceLines(engine.events, layout, (line) => lines.push(line));
    await measure(engine, requests, load.times * load.batch);
    stop();
    return lines.join("");
  } finally {
    await engine.dispose();
  }
}

export function localityTable(lines: string): ReportTable {
  const { sequences, layout } = readTrace(lines, "the recorded trace");
  const { locality } = routeStatistics(
    sequences.map(({ experts }) => experts),
    layout.numExperts,
  );
  return {
    title: "Locality: tokens that keep the expert of the token before",
    columns: ["", "paper", "Mixtral, by the paper", "ours"],
    rows: [["of all tokens", percent(LOCALITY.readMe), percent(LOCALITY.mixtral), percent(locality)]],
    notes: [
      "Why they differ: our router learns from costs averaged over 64 tokens (`--locality-tokens`), the paper's from single tokens.",
    ],
  };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
