import { curvesPanel } from "../kit/curves.ts";
import type { Interleaved } from "../kit/interleave.ts";
import { summaryTable } from "../kit/summary-table.ts";
import type { BenchSettings, SuiteReport, Target } from "../kit/suite.ts";
import { bestPeerTable, type ComparedColumn, toBestPeer } from "./best-peer.ts";
import { METRICS } from "./metrics.ts";
import { turnsTable } from "./turns-table.ts";
import type { WorkloadSizes } from "./workload.ts";

const PREFILL_TOKENS = 512;
/** What was wanted of int8 against the best peer, by requests at once. */
const WANTED: Readonly<Record<number, number>> = { 1: 1.5, 8: 2.7, 16: 3, 32: 3.2 };
const WANTED_PREFILL = 1.3;

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
  const best = bestPeerTable(samples, compared, isOurs);
  const newTokensTitle = `New tokens a second by requests at once (${promptTokens} tokens of prompt, ${newTokens} new ones)`;
  const byTurns = turnsTable(turns.samples, { title: `${newTokensTitle}, by turns within seconds`, seed, isOurs });
  return {
    tables: [
      ...(byTurns ? [byTurns] : []),
      table(newTokensTitle, [...decode, ...loss]),
      table("First token by requests at once, ms (median of the requests)", first),
      table("Prefill by the prompt's length, tokens a second", prefill),
      table(`Decode behind a prompt by its length, tokens a second (${contextTokens} tokens)`, behind),
      table("Memory, load, event loop, loss", rest),
      ...(best ? [best] : []),
    ],
    // What took turns within seconds says more of ratios than what had a process and a minute of its own.
    targets: quick
      ? []
      : targetsOf(
          [...samples, ...turns.samples],
          byTurns ? by(METRICS.byTurns, concurrency, "higher") : decode,
          prefill,
        ),
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

function targetsOf(
  samples: Interleaved["samples"],
  decode: readonly ComparedColumn[],
  prefill: readonly ComparedColumn[],
): readonly Target[] {
  const variant = ["readme-moe int8", "readme-moe dense int8"].find((name) =>
    samples.some((one) => one.variant === name),
  );
  if (variant === undefined) return [];
  const target = (what: string, column: ComparedColumn | undefined, limit: number | undefined): readonly Target[] => {
    const value = column && toBestPeer(samples, variant, column, isOurs);
    if (value === undefined || limit === undefined) return [];
    return [{ what: `${variant}, ${what}`, value, unit: "× the best peer", wanted: "over", limit }];
  };
  return [
    ...decode.flatMap((column) => target(`${column.at} at once`, column, WANTED[Number(column.at)])),
    ...target(
      `prefill of ${PREFILL_TOKENS}`,
      prefill.find(({ at }) => at === PREFILL_TOKENS),
      WANTED_PREFILL,
    ),
  ];
}
