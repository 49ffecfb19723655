// Tables of losses and accuracies.

import type { Report } from "@readme-moe/refactor";
import { formatNumber } from "../kit/report.ts";
import type { ReportTable } from "../kit/suite.ts";

/** Result of `eval --json`. */
export interface Evaluated {
  readonly files?: Readonly<Record<string, { readonly loss: number }>>;
  readonly mean_loss?: number;
  readonly requests?: Readonly<Record<string, Accuracies>>;
}

interface Accuracies {
  readonly acc: number;
  readonly acc_stderr: number | null;
  readonly acc_norm: number;
  readonly acc_norm_stderr: number | null;
  readonly documents: number;
}

export interface MeasuredQuality {
  readonly name: string;
  readonly megabytes: number;
  readonly evaluated: Evaluated;
}

export function lossesTable(measured: readonly MeasuredQuality[]): ReportTable {
  const domains = Object.keys(measured[0]?.evaluated.files ?? {});
  const [first] = measured;
  return {
    title: "Loss in nats per token on held-out documents, and memory of all weights",
    columns: ["", "MB", "mean", `above ${first?.name ?? ""}`, ...domains],
    rows: measured.map(({ name, megabytes, evaluated: { mean_loss: mean = NaN, files } }) => [
      name,
      formatNumber(megabytes, 0),
      mean.toFixed(3),
      (mean - (first?.evaluated.mean_loss ?? NaN)).toFixed(3),
      ...domains.map((domain) => files?.[domain]?.loss.toFixed(3) ?? "–"),
    ]),
    notes: [betterInLess(measured)],
  };
}

/** Names the models with less loss than the last one in no more memory. */
function betterInLess(measured: readonly MeasuredQuality[]): string {
  const ours = measured.at(-1);
  const better = measured.filter(
    ({ megabytes, evaluated }) =>
      megabytes <= (ours?.megabytes ?? 0) &&
      (evaluated.mean_loss ?? Infinity) < (ours?.evaluated.mean_loss ?? -Infinity),
  );
  if (better.length === 0) return `No model with as little memory has less loss than ${ours?.name ?? "the last one"}.`;
  return `Models with less loss in no more memory than ${ours?.name ?? "the last one"}: ${better.map(({ name }) => name).join("; ")}.`;
}

export function accuraciesTable(measured: readonly MeasuredQuality[]): ReportTable | undefined {
  const tasks = Object.keys(measured[0]?.evaluated.requests ?? {});
  if (tasks.length === 0) return undefined;
  return {
    title: "Multiple choice, right answers in % (by likelihood; by likelihood per character)",
    columns: ["", ...tasks],
    rows: measured.map(({ name, evaluated: { requests } }) => [
      name,
      ...tasks.map((task) => {
        const one = requests?.[task];
        return one
          ? `${accuracyCell(one.acc, one.acc_stderr)}; ${accuracyCell(one.acc_norm, one.acc_norm_stderr)}`
          : "–";
      }),
    ]),
  };
}

/** Makes a table of the refactoring's own measurements, since selection and static half are not written as models. */
export function reportTable({ losses, settings }: Pick<Report, "losses" | "settings">): ReportTable {
  const domains = Object.keys(losses[0]?.losses ?? {});
  return {
    title: "Loss above the dense model's, by the refactoring's own report (float32, its held-out documents)",
    columns: ["", "mean", ...domains],
    rows: losses.map((row) => [
      row.label,
      row.id === "dense" ? row.mean.toFixed(3) : `+${row.above_dense.toFixed(3)}`,
      ...domains.map((domain) => {
        const own = row.losses[domain];
        const dense = losses[0]?.losses[domain];
        if (own === undefined || dense === undefined) return "–";
        return row.id === "dense" ? own.toFixed(3) : (own - dense).toFixed(3);
      }),
    ]),
    notes: [
      `Method ${settings.method}, ${settings.calibration_tokens} calibration tokens of each kind.`,
      ...(losses.some(({ id }) => id === "static")
        ? []
        : [
            "Refactored without baselines: selection and static half can be given as folders, `--set paper=… static=…`.",
          ]),
    ],
  };
}

function accuracyCell(value: number, error: number | null): string {
  return `${(100 * value).toFixed(1)}${error === null ? "" : ` ± ${(100 * error).toFixed(1)}`}`;
}
