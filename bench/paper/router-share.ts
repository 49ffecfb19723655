// Measures the router's share of a step and of the parameters (tables 8 and 9), and one request beside the dense model
// (figure 5, left).

import { formatNumber } from "../kit/report.ts";
import type { ReportTable, SuiteContext } from "../kit/suite.ts";
import type { EngineFigures } from "../limits/jobs.ts";
import { caseName } from "../limits/cases.ts";
import { DENSE, measurePairs, MIXTURE } from "../limits/paired-steps.ts";
import { runJob } from "../limits/run-job.ts";
import { ONE_REQUEST, PARAMETERS, STEP_PARTS } from "./paper-numbers.ts";

const PAST = 128;
export interface BatchFigures {
  readonly numSeqs: number;
  readonly engine: EngineFigures;
}

export async function measureBatches(context: SuiteContext, numExperts: number): Promise<readonly BatchFigures[]> {
  const figures: BatchFigures[] = [];
  for (const numSeqs of context.settings.quick ? [1, 5] : [1, 5, 10, 20, 30]) {
    const one = { numSeqs, past: PAST, distinct: Math.min(4, numSeqs, numExperts) };
    const job = { ...jobOf(context, context.settings.model), cases: [one] };
    const [engine] = await context.keep(`engine | ${numSeqs}`, () => runJob({ kind: "engine", ...job }));
    if (engine) figures.push({ numSeqs, engine });
  }
  return figures;
}

function jobOf({ settings }: SuiteContext, path: string) {
  const { threads, cacheFolder, quick } = settings;
  return { model: { path }, precision: "int8", threads, cacheFolder, rounds: quick ? 10 : 40 } as const;
}

export function routerTable(batches: readonly BatchFigures[]): ReportTable {
  return {
    title: "Tables 8 and 9: router, attention and FFN of a decode step, ms",
    columns: [
      "batch",
      "router, paper",
      "attention, paper",
      "FFN, paper",
      "router's share, paper",
      "router",
      "forward pass",
      "router's share",
      "of the whole step",
    ],
    rows: batches.map(({ numSeqs, engine }) => {
      const paper = STEP_PARTS[numSeqs];
      const { router, "forward pass": forward } = engine.parts;
      const shares = [router / (router + forward), router / engine.step].map(percent);
      const theirs = paper
        ? [...[paper.router, paper.attention, paper.ffn].map((ms) => ms.toFixed(2)), `${paper.share} %`]
        : ["–", "–", "–", "–"];
      return [`${numSeqs}`, ...theirs, formatNumber(router), formatNumber(forward), ...shares];
    }),
    notes: [
      "Why they differ: the paper's model has 4.7 billion active parameters on a GPU, so that its router is small beside it. The forward pass is all of a step in the kernel: attention, FFN, norms, head.",
    ],
  };
}

/** Sizes in a refactoring's report. */
export interface Sizes {
  readonly active_parameters: number;
  readonly router_parameters: number;
}

export function parametersTable(sizes: Sizes | undefined): ReportTable {
  return {
    title: "The router's share of the parameters that a token uses",
    columns: ["", "router", "active", "share"],
    rows: [
      [
        "paper",
        formatNumber(PARAMETERS.router),
        formatNumber(PARAMETERS.active),
        shareOf(PARAMETERS.router, PARAMETERS.active),
      ],
      ...(sizes
        ? [
            [
              "ours",
              formatNumber(sizes.router_parameters),
              formatNumber(sizes.active_parameters),
              shareOf(sizes.router_parameters, sizes.active_parameters),
            ],
          ]
        : []),
    ],
    notes: ["Most of a router's parameters are an embedding table, of which a token reads one row."],
  };
}

/** Returns medians over rounds in which both took turns. */
export interface OneRequest {
  readonly mixtureMs: number;
  readonly denseMs: number;
}

/** Returns `undefined` without a dense model. */
export async function measureOneRequest(context: SuiteContext, numExperts: number): Promise<OneRequest | undefined> {
  const { model, dense, cacheFolder } = context.settings;
  if (dense === undefined) return undefined;
  const one = { numSeqs: 1, past: PAST, distinct: 1 };
  const { stepMs, failures } = await measurePairs(context, {
    group: "one request",
    models: [
      { name: MIXTURE, numExperts, measured: [{ path: model }] },
      { name: DENSE, numExperts: 1, measured: [{ path: dense }] },
    ],
    cases: { dense: [one], mixture: [one] },
    cacheFolder,
    combine: ([ms = NaN]) => ms,
  });
  if (failures.length > 0) throw new Error(failures.join("; "));
  return { mixtureMs: stepMs(MIXTURE, caseName(one, numExperts)), denseMs: stepMs(DENSE, caseName(one, 1)) };
}

export function oneRequestTable(measured: OneRequest | undefined, batches: readonly BatchFigures[]): ReportTable {
  const single = batches.find(({ numSeqs }) => numSeqs === 1);
  const less = measured && 1 - measured.mixtureMs / measured.denseMs;
  return {
    title: "Figure 5, left: one request",
    columns: ["", "paper", "ours"],
    rows: [
      [
        "latency, less than the dense model's",
        `${ONE_REQUEST.lessThanDense} %`,
        less === undefined ? "–" : percent(less),
      ],
      [
        "router's share of the time",
        `${ONE_REQUEST.routerShare} %`,
        single ? percent(single.engine.parts.router / single.engine.step) : "–",
      ],
    ],
    notes: [
      "Why they differ: see the suite `limits`, which splits steps into parts and finds the shape from which experts are faster.",
    ],
  };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}

function shareOf(router: number, active: number): string {
  return percent(router / active);
}
