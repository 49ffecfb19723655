// Report of a tuning, spelled as in report.json, and the files of the model folder that it becomes.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { readTextFile, type Model } from "@readme-moe/model";
import { decimals, signed } from "../report/verdict.ts";
import { linePicture } from "../report/pictures/line-picture.ts";
import { stepsOf, type Evaluation, type ResolvedTuneOptions } from "./options.ts";
import { bestOf, type TuningHistory } from "./train.ts";
import type { DomainCounts } from "./tuning-data.ts";

const MAX_BYTES = 64 << 20;
const CURVE = "pictures/tuning.svg";

/** Results of a tuning: the field `tuning` of the model's report.json. */
export interface TuningReport {
  readonly version: 1;
  /** Name of the tuned model, as given by the user. */
  readonly model: string;
  /** Name of the teacher, as given by the user. */
  readonly teacher: string;
  readonly options: ResolvedTuneOptions;
  readonly trained_parameters: number;
  /** Share of the experts' neurons that another expert has, too, where these have changes in common. */
  readonly common_neurons?: number;
  readonly steps: number;
  /** Planned steps; fewer are done when the loss no longer falls. */
  readonly planned_steps: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly data: readonly DomainCounts[];
  /** Losses of the dense model on held-out text, in nats per token. */
  readonly dense: TuningLosses;
  /** Losses before tuning, with the model's own router. */
  readonly before: TuningLosses;
  /** Losses of the kept parameters, those with the least mean loss. */
  readonly after: TuningLosses;
  readonly curve: readonly TuningPoint[];
  /** Means of each step. */
  readonly training: readonly {
    readonly divergence: number;
    readonly cross_entropy: number;
    readonly gradient_norm: number;
  }[];
}

/** Losses on held-out text, in nats per token. `above_dense` is `mean` minus the dense teacher's mean. */
export interface TuningLosses {
  readonly mean: number;
  readonly above_dense: number;
  /** Loss of each kind of text. */
  readonly losses: Readonly<Record<string, number>>;
}

/** Losses measured during a tuning, after a number of steps and tokens. */
export interface TuningPoint extends TuningLosses {
  readonly step: number;
  readonly tokens: number;
}

export interface TuningFacts {
  readonly model: string;
  readonly teacher: string;
  readonly options: ResolvedTuneOptions;
  readonly trainedParameters: number;
  readonly commonNeurons: number | undefined;
  /** Time of this process. */
  readonly seconds: number;
  readonly domains: readonly DomainCounts[];
  readonly history: TuningHistory;
}

export function tuningReport(known: TuningFacts): TuningReport {
  const { history, options, domains, trainedParameters, commonNeurons, ...facts } = known;
  const tokensOf = (steps: number): number => steps * options.batchSequences * options.sequenceTokens;
  const losses = ({ mean, losses: all }: Evaluation): TuningLosses => ({
    mean,
    above_dense: mean - history.teacher.mean,
    losses: Object.fromEntries(domains.map(({ name }, index) => [name, all[index] ?? NaN])),
  });
  const curve = history.evaluations.map((one) => ({ step: one.step, tokens: tokensOf(one.step), ...losses(one) }));
  return {
    version: 1,
    model: facts.model,
    teacher: facts.teacher,
    options,
    trained_parameters: trainedParameters,
    ...(commonNeurons === undefined ? {} : { common_neurons: commonNeurons }),
    steps: history.steps.length,
    planned_steps: stepsOf(options),
    tokens: tokensOf(history.steps.length),
    seconds: facts.seconds,
    data: domains,
    dense: losses(history.teacher),
    before: losses(history.evaluations[0] ?? bestOf(history)),
    after: losses(bestOf(history)),
    curve,
    training: history.steps.map(({ divergence, crossEntropy, gradientNorm }) => ({
      divergence,
      cross_entropy: crossEntropy,
      gradient_norm: gradientNorm,
    })),
  };
}

/** Adds the field `tuning` to report.json and a section to README.md, after the header that a hub reads. */
export async function tuningDocuments(model: Model, report: TuningReport): Promise<Readonly<Record<string, string>>> {
  const before = await readTextFile(join(model.path, "report.json"), MAX_BYTES);
  const card = await readTextFile(join(model.path, "README.md"), MAX_BYTES);
  const [, head = "", body = ""] = /^(---\r?\n.*?\r?\n---\r?\n)?(.*)$/s.exec(card ?? "") ?? [];
  return {
    ...(await picturesOf(model)),
    [CURVE]: await tuningPicture(report),
    "report.json": `${JSON.stringify({ ...asObject(before), tuning: report }, undefined, 1)}\n`,
    "README.md": `${head}\n${tuningSection(report)}\n${body.replace(/^\s+/, "")}`.trimStart(),
  };
}

function tuningSection(report: TuningReport): string {
  const { dense, before, after, options, data } = report;
  const row = (name: string, pick: (losses: TuningLosses) => number): string =>
    `| ${name} | ${[dense, before, after].map((losses) => decimals(pick(losses))).join(" | ")} |`;
  const how =
    options.method === "lora"
      ? `low-rank changes (rank ${options.rank}) of the experts' weights`
      : "all weights of the experts";
  const shared =
    report.common_neurons === undefined
      ? []
      : [
          `${Math.round(100 * report.common_neurons)} % of the experts' neurons are those of other experts, too, and have one change`,
          "that the tokens of all experts trained. Each expert has its own change beside it.",
          "",
        ];
  return [
    "# Tuned",
    "",
    `The model below learned ${how}${options.attention ? ", and of attention," : ""} from its dense model's next-token`,
    `distributions on ${report.tokens.toLocaleString("en")} tokens. Losses on held-out text with its own router, in nats per token:`,
    "",
    "| | dense | before tuning | tuned |",
    "|---|---|---|---|",
    ...data.map(({ name }) => row(name, ({ losses }) => losses[name] ?? NaN)),
    row("**mean**", ({ mean }) => mean),
    "",
    ...shared,
    `Above the dense model: ${signed(before.above_dense, 3)} before, **${signed(after.above_dense, 3)}** tuned.`,
    "",
    `![Loss above the dense model by training tokens](${CURVE})`,
    "",
    "The figures below were measured before tuning, on other text.",
    "",
  ].join("\n");
}

function tuningPicture({ curve, data }: TuningReport): Promise<string> {
  const points = curve.map(({ tokens, above_dense: above }) => [tokens / 1000, Math.max(0, above)] as const);
  return linePicture({
    title: "Loss won back by tuning",
    description: "Loss on held-out text above the dense model's, by training tokens: lower is better.",
    xTitle: "thousand tokens",
    rows: [
      {
        panels: [
          {
            title: `nats per token above the dense model, mean of ${data.length} kind(s) of text`,
            curves: [{ name: "learned router", colour: "#1f6f8b", points }],
          },
        ],
      },
    ],
  });
}

async function picturesOf({ path }: Model): Promise<Record<string, string>> {
  const names = await readdir(join(path, "pictures")).catch(() => []);
  const pictures: Record<string, string> = {};
  for (const name of names.filter((file) => file.endsWith(".svg"))) {
    const text = await readTextFile(join(path, "pictures", name), MAX_BYTES);
    if (text !== undefined) pictures[`pictures/${name}`] = text;
  }
  return pictures;
}

function asObject(text: string | undefined): object {
  try {
    const value: unknown = JSON.parse(text ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {}; // The user's own file; the figures of a tuning do not depend on it.
  }
}
