import { curvesPanel, summaryTable } from "../kit/report.ts";
import type { Interleaved } from "../kit/turns.ts";
import type { BenchSettings, SuiteReport } from "../kit/suite.ts";
import { bestPeerTable, type ComparedColumn, turnsTable } from "./peer-tables.ts";
import { engineTargets, isOpenVino } from "./engine-targets.ts";
import { METRICS } from "./metrics.ts";
import type { WorkloadSizes } from "./workload.ts";

function isOurs(variant: string): boolean {
  return variant.startsWith("readme-moe");
}

function by(metric: string, ats: readonly number[], better: "higher" | "lower"): readonly ComparedColumn[] {
  return ats.map((at) => ({ title: `${at}`, metric, at, better }));
}

function once(metric: string, better: "higher" | "lower"): ComparedColumn {
  return { title: metric, metric, better };
}

export function engineReport(
  { seed, quick }: BenchSettings,
  { concurrency, promptTokens, newTokens, contexts, contextTokens }: WorkloadSizes,
  { samples, failures }: Interleaved,
  turns: Interleaved,
): SuiteReport {
  const decode = by(METRICS.decode, concurrency, "higher");
  const first = by(METRICS.first, concurrency, "lower");
  const prefill = by(METRICS.prefill, contexts, "higher");
  const behind = by(METRICS.contextDecode, contexts, "higher");
  const rest = [
    once(METRICS.load, "lower"),
    once(METRICS.peak, "lower"),
    once(METRICS.contextPeak, "lower"),
    once(METRICS.loopP99, "lower"),
    once(METRICS.loopMax, "lower"),
    { ...once(METRICS.loss, "lower"), digits: 3, compare: "difference" } as const,
  ].filter(({ metric }) => samples.some((one) => one.metric === metric));
  const loss = rest.filter(({ metric }) => metric === METRICS.loss);
  const table = (title: string, columns: readonly ComparedColumn[]) => summaryTable(samples, { title, seed, columns });
  const compared = [
    ...decode.map((column) => ({ ...column, title: `${column.title} at once` })),
    ...prefill.map((column) => ({ ...column, title: `prefill ${column.title}` })),
    ...rest,
  ];
  // OpenVINO is no Node library, and would hide the Node libraries.
  const inNode = samples.filter(({ variant }) => !isOpenVino(variant));
  const besideOpenVino = samples.filter(({ variant }) => isOurs(variant) || isOpenVino(variant));
  const comparisons = [
    bestPeerTable(inNode, compared, isOurs, "Ours by the best peer in Node of each column"),
    bestPeerTable(besideOpenVino, compared, isOurs, "Ours by OpenVINO int8"),
  ];
  const newTokensTitle = `New tokens a second by requests at once (${promptTokens} tokens of prompt, ${newTokens} new ones)`;
  const turnsOf = (metric: string, title: string, columnOf?: (at: number | string) => string) =>
    turnsTable(
      turns.samples.filter((one) => one.metric === metric),
      { title: `${title}, by turns within seconds`, seed, isOurs, ...(columnOf && { columnOf }) },
    );
  const byTurns = [
    turnsOf(METRICS.byTurns, newTokensTitle),
    turnsOf(METRICS.prefillByTurns, "Prefill, tokens a second", (length) => `prompt of ${length}`),
  ];
  return {
    tables: [
      ...byTurns,
      table(newTokensTitle, [...decode, ...loss]),
      table("First token by requests at once, ms (median of the requests)", first),
      table("Prefill by the prompt's length, tokens a second", prefill),
      table(`Decode behind a prompt by its length, tokens a second (${contextTokens} tokens)`, behind),
      table("Memory, load, event loop, loss", rest),
      ...comparisons,
    ].filter((one) => one !== undefined),
    targets: quick ? [] : engineTargets({ samples: [...samples, ...turns.samples], concurrency, isOurs }),
    pictures: [
      {
        name: "speed",
        picture: {
          title: "Speed by requests at once, and by context",
          description: "medians; new tokens a second of all requests together, and decode behind a prompt",
          xTitle: "requests at once",
          isLogarithmic: "x",
          rows: [{ panels: [curvesPanel(samples, METRICS.decode)] }],
        },
      },
      {
        name: "context",
        picture: {
          title: "Prefill and decode by the prompt's length",
          description: "medians",
          xTitle: "tokens of the prompt",
          isLogarithmic: "x",
          rows: [{ panels: [curvesPanel(samples, METRICS.prefill), curvesPanel(samples, METRICS.contextDecode)] }],
        },
      },
    ],
    samples: [...samples, ...turns.samples],
    notes: [
      "Each measurement has a process of its own; contenders take turns. Prompts are the same for all, and no two begin alike.",
      "The event loop is measured while 8 requests run; its monitor's period of 5 ms is in it.",
      ...Array.from([...failures, ...turns.failures], ([name, why]) => `${name}: not measured: ${why}`),
    ],
  };
}
