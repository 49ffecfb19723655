// Report of a tuning, spelled as in report.json, and the files of the model folder that it becomes.

import type { Model } from "@readme-moe/model";
import { readDocuments } from "../delta/delta-file.ts";
import { decimals, grouped, markdownTable, markdownText, percent, signed } from "../report/verdict.ts";
import { linePicture } from "../report/pictures/line-picture.ts";
import { stepsOf, type Evaluation, type ResolvedTuneOptions } from "./options.ts";
import { bestOf, type TuningHistory } from "./train.ts";
import type { DomainCounts } from "./tuning-data.ts";

const CURVE = "pictures/tuning.svg";

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

/** Facts that the reports of all trainings have. */
export interface TrainingFacts<Options> {
  /** Name of the trained model, as given by the user. */
  readonly model: string;
  readonly options: Options;
  readonly trainedParameters: number;
  /** Time of this process. */
  readonly seconds: number;
  readonly domains: readonly DomainCounts[];
}

/** Makes the fields that the reports of all trainings have. */
export function trainingFields<Options>(facts: TrainingFacts<Options>) {
  const { model, options, trainedParameters, seconds, domains } = facts;
  return { version: 1, model, options, trained_parameters: trainedParameters, seconds, data: domains } as const;
}

/** Returns a function that spells losses as in report.json. @param dense - losses of the dense model */
export function lossesBeside(
  domains: readonly DomainCounts[],
  dense: Evaluation,
): (measured: Evaluation) => TuningLosses {
  return ({ mean, losses: all }) => ({
    mean,
    above_dense: mean - dense.mean,
    losses: Object.fromEntries(domains.map(({ name }, index) => [name, all[index] ?? NaN])),
  });
}

interface TuningFacts extends TrainingFacts<ResolvedTuneOptions> {
  readonly teacher: string;
  readonly commonNeurons: number | undefined;
  readonly history: TuningHistory;
}

/** Results of a tuning: the field `tuning` of the model's report.json. */
export type TuningReport = ReturnType<typeof tuningReport>;

export function tuningReport(facts: TuningFacts) {
  const { history, options, domains, commonNeurons, teacher } = facts;
  const tokensOf = (steps: number): number => steps * options.batchSequences * options.sequenceTokens;
  const spelt = lossesBeside(domains, history.teacher);
  return {
    ...trainingFields(facts),
    /** Name of the teacher, as given by the user. */
    teacher,
    /** Share of the experts' neurons that another expert has, too, where these have changes in common. */
    ...(commonNeurons === undefined ? {} : { common_neurons: commonNeurons }),
    steps: history.steps.length,
    /** Planned steps; fewer are done when the loss no longer falls. */
    planned_steps: stepsOf(options),
    tokens: tokensOf(history.steps.length),
    /** Losses of the dense model on held-out text, in nats per token. */
    dense: spelt(history.teacher),
    /** Losses before tuning, with the model's own router. */
    before: spelt(history.evaluations[0] ?? bestOf(history)),
    /** Losses of the kept parameters, those with the least mean loss. */
    after: spelt(bestOf(history)),
    curve: history.evaluations.map((one): TuningPoint => ({
      step: one.step,
      tokens: tokensOf(one.step),
      ...spelt(one),
    })),
    /** Means of each step. */
    training: history.steps.map(({ divergence, crossEntropy, gradientNorm }) => ({
      divergence,
      cross_entropy: crossEntropy,
      gradient_norm: gradientNorm,
    })),
  };
}

/** Adds the field `tuning` to report.json and a section to README.md, after the header that a hub reads. */
export async function tuningDocuments(
  model: Pick<Model, "path">,
  report: TuningReport,
): Promise<Readonly<Record<string, string>>> {
  const { "report.json": before, "README.md": card, ...pictures } = await readDocuments(model.path);
  const [, head = "", body = ""] = /^(---\r?\n.*?\r?\n---\r?\n)?(.*)$/s.exec(card ?? "") ?? [];
  return {
    ...pictures,
    [CURVE]: await tuningPicture(report),
    "report.json": `${JSON.stringify({ ...asObject(before), tuning: report }, undefined, 1)}\n`,
    "README.md": `${head}\n${tuningSection(report)}\n${body.replace(/^\s+/, "")}`.trimStart(),
  };
}

function tuningSection(report: TuningReport): string {
  const { dense, before, after, options, data, common_neurons: common } = report;
  const row = (name: string, pick: (losses: TuningLosses) => number): readonly string[] => [
    name,
    ...[dense, before, after].map((losses) => decimals(pick(losses))),
  ];
  const how =
    options.method === "lora"
      ? `low-rank changes (rank ${options.rank}) of the experts' weights`
      : "all weights of the experts";
  const sections = [
    "# Tuned",
    `The model below learned ${how}${options.attention ? ", and of attention," : ""} from its dense model's next-token ` +
      `distributions on ${grouped(report.tokens)} tokens. Losses on held-out text with its own router, in nats per token:`,
    markdownTable(
      ["", "dense", "before tuning", "tuned"],
      [
        ...data.map(({ name }) => row(markdownText(name), ({ losses }) => losses[name] ?? NaN)),
        row("**mean**", ({ mean }) => mean),
      ],
    ),
    ...(common === undefined
      ? []
      : [
          `${percent(common)} of the experts' neurons are those of other experts, too, and have one change that the ` +
            "tokens of all experts trained. Each expert has its own change beside it.",
        ]),
    `Above the dense model: ${signed(before.above_dense, 3)} before, **${signed(after.above_dense, 3)}** tuned.`,
    `![Loss above the dense model by training tokens](${CURVE})`,
    "The figures below were measured before tuning, on other text.",
  ];
  return `${sections.join("\n\n")}\n`;
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

function asObject(text: string | undefined): object {
  try {
    const value: unknown = JSON.parse(text ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {}; // The user's own file; the figures of a tuning do not depend on it.
  }
}
