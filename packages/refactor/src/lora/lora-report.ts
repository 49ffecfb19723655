// Report of experts of low rank, spelled as in report.json, and the documents of their folder.

import { reportJson } from "../report/model-card.ts";
import { lossesPicture } from "../report/pictures/report-pictures.ts";
import { decimals, grouped, markdownTable, markdownText, percent, signed } from "../report/verdict.ts";
import type { Evaluation } from "../tuning/options.ts";
import { evaluationOf } from "../tuning/train.ts";
import type { TextSequence } from "../tuning/tuning-data.ts";
import { lossesBeside, trainingFields, type TrainingFacts, type TuningLosses } from "../tuning/tuning-report.ts";
import { withKeptRouter, type KeptRouter } from "../tuning/tuning-router.ts";
import { type AdaptedModel, lossesOfTokens, meanLoss, type LossOptions } from "./adapted-model.ts";
import { totalSteps, type Schedule } from "./adapter-trainer.ts";
import type { LoraStage, ResolvedLoraOptions } from "./options.ts";
import type { TrainedExperts } from "./train-experts.ts";

const LOSSES = "pictures/losses.svg";

/** Ways to choose an expert, in the order of tables. */
const LABELS = {
  dense: "dense model",
  rival: "one expert for all kinds, of as many tokens",
  label: "the text's own expert",
  router: "learned router",
} as const;

/** One expert of the set. */
export interface ExpertReport {
  readonly name: string;
  /** Folder within the set. */
  readonly folder: string;
}

/** One training, with losses on the held-out text that chooses among its parameters. */
export interface TrainingReport {
  readonly stage: LoraStage;
  readonly name: string;
  readonly dense: number;
  readonly curve: readonly { readonly step: number; readonly tokens: number; readonly mean: number }[];
}

interface LoraFacts extends TrainingFacts<ResolvedLoraOptions>, Measurement {
  readonly schedule: Schedule;
  readonly trained: TrainedExperts;
}

/** Results of `tuneLoras`: report.json of the experts' folder. Losses are on held-out text, in nats per token. */
export type LoraReport = ReturnType<typeof loraReport>;

export function loraReport(facts: LoraFacts) {
  const { options, schedule, domains, trained, losses } = facts;
  const stepTokens = options.batchSequences * options.sequenceTokens;
  const names = domains.map(({ name }) => name);
  const spelt = lossesBeside(domains, losses.dense);
  return {
    ...trainingFields(facts),
    /** Tokens that all experts learned from together, and the one for comparison alone. */
    tokens: totalSteps(schedule) * stepTokens,
    experts: names.map((name): ExpertReport => ({ name, folder: `experts/${name}` })),
    trainings: trained.parts.map(({ stage, name, history }): TrainingReport => ({
      stage,
      name,
      dense: history.teacher.mean,
      curve: history.evaluations.map(({ step, mean }) => ({ step, tokens: step * stepTokens, mean })),
    })),
    dense: spelt(losses.dense),
    /** One expert of the same rank for all kinds; absent unless it was trained. */
    ...(losses.rival ? { rival: spelt(losses.rival) } : {}),
    /** Each text with the expert of its kind. */
    label: spelt(losses.label),
    /** Each token with the expert that the learned router chooses. */
    router: spelt(losses.router),
    /** Shares of each kind's held-out tokens that the router sends to each expert and to "none". */
    routes: Object.fromEntries(
      names.map((name, kind): [string, Readonly<Record<string, number>>] => [
        name,
        Object.fromEntries(["none", ...names].map((expert, index) => [expert, facts.routes[kind]?.[index] ?? 0])),
      ]),
    ),
  };
}

/** Writes report.json, README.md and a picture, by name. */
export async function loraDocuments(report: LoraReport): Promise<Readonly<Record<string, string>>> {
  const picture = await pictureOf(report);
  return {
    "report.json": reportJson(report),
    "README.md": card(report, picture !== undefined),
    ...(picture === undefined ? {} : { [LOSSES]: picture }),
  };
}

function rowsOf(report: LoraReport): readonly { readonly id: keyof typeof LABELS; readonly row: TuningLosses }[] {
  const ids = ["dense", "rival", "label", "router"] as const;
  return ids.flatMap((id) => {
    const row = report[id];
    return row ? [{ id, row }] : [];
  });
}

function card(report: LoraReport, hasPicture: boolean): string {
  const { model, data, options, experts, router, routes } = report;
  const rows = rowsOf(report);
  const row = (name: string, pick: (losses: TuningLosses) => string): readonly string[] => [
    name,
    ...rows.map(({ row: losses }) => pick(losses)),
  ];
  const lossTable = markdownTable(
    ["", ...rows.map(({ id }) => LABELS[id])],
    [
      ...data.map(({ name }) => row(markdownText(name), ({ losses }) => decimals(losses[name] ?? NaN, 3))),
      row("**mean**", ({ mean }) => `**${decimals(mean, 3)}**`),
      row("beside dense", ({ above_dense: above }) => signed(above, 3)),
    ],
  );
  const names = ["none", ...experts.map(({ name }) => name)];
  const routeTable = markdownTable(
    ["text", ...names.map(markdownText)],
    data.map(({ name }) => [markdownText(name), ...names.map((expert) => percent(routes[name]?.[expert] ?? 0))]),
  );
  const dataTable = markdownTable(
    ["text", "documents", "held out", "tokens", "held-out tokens"],
    data.map((one) => [
      markdownText(one.name),
      ...[one.documents, one.held_out_documents, one.tokens, one.evaluation_tokens].map(grouped),
    ]),
  );
  const count = experts.length === 1 ? "One expert that changes" : `${experts.length} experts that change`;
  const products = options.attention ? "all products of the layers" : "the feed-forward products";
  const course = {
    ranks: `They have ${options.sharedRank} of their ranks in common, which all text trained.`,
    start: `All kinds trained one expert on ${percent(options.sharedShare)} of the tokens, from which each kind's own went on.`,
    none: "Each expert began from zero.",
  }[options.sharing];
  const sections = [
    `# Experts of low rank over ${markdownText(model)}`,
    `${count} ${products} of the dense model with rank ${options.rank}, in PEFT's layout, and a ` +
      "router that chooses each token's expert before the model runs. " +
      `They learned from ${grouped(report.tokens)} tokens. ${course}`,
    "```sh\nreadme-moe chat MODEL --lora DIR\n```",
    "## Losses on held-out text",
    `In nats per token. The learned router: **${signed(router.above_dense, 3)}** beside the dense model.`,
    lossTable,
    ...(hasPicture ? [`![Loss beside the dense model's, by kind of text](${LOSSES})`] : []),
    "## Routes",
    "Share of each kind's held-out tokens by the expert that the router chooses.",
    routeTable,
    "## Text",
    dataTable,
  ];
  return `${sections.join("\n\n")}\n`;
}

function pictureOf(report: LoraReport): Promise<string> | undefined {
  const losses = rowsOf(report).map(({ id, row }) => ({
    id: PICTURE_IDS[id],
    label: LABELS[id],
    ffn_share: 1,
    losses: row.losses,
    mean: row.mean,
    above_dense: row.above_dense,
  }));
  return lossesPicture({
    losses,
    data: report.data,
    base: { name: report.model },
    description: "Loss on held-out documents beside the dense model's: longer bars to the left are better.",
  });
}

/** Ids that have the colours of the same things in other reports. */
const PICTURE_IDS = { dense: "dense", rival: "static", label: "oracle_domain", router: "ours" } as const;

// Losses of trained experts on held-out text, by way to choose among them.

interface Measurement {
  readonly losses: Readonly<Record<"dense" | "label" | "router", Evaluation>> & { readonly rival?: Evaluation };
  /** Share of each kind's tokens by expert, "none" first. */
  readonly routes: readonly (readonly number[])[];
}

interface MeasuredExperts {
  readonly model: AdaptedModel;
  readonly trained: TrainedExperts;
  /** Held-out sequences of all kinds. */
  readonly test: readonly TextSequence[];
  readonly router: KeptRouter;
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
}

export async function measureExperts(setting: MeasuredExperts): Promise<Measurement> {
  const { model, trained, test, router, threads, signal } = setting;
  const adapters = trained.own;
  const routeOf = await routesOf(test, router, threads);
  const evaluate = async (options: Omit<LossOptions, "signal">): Promise<Evaluation> =>
    evaluationOf(0, test, (await lossesOfTokens(model, test, { ...options, signal })).map(meanLoss));
  const dense = await evaluate({ adapters: [] });
  const rival = trained.rival && (await evaluate({ adapters: [trained.rival] }));
  const label = await evaluate({
    adapters,
    route: ({ tokenIds, domain }) => new Uint16Array(tokenIds.length).fill(domain + 1),
  });
  const learned = await evaluate({ adapters, route: (sequence) => routeOf.get(sequence) ?? new Uint16Array() });
  const counts = trained.own.map((_, kind) => sharesOf(test, routeOf, kind, adapters.length + 1));
  return { losses: { dense, ...(rival ? { rival } : {}), label, router: learned }, routes: counts };
}

async function routesOf(
  test: readonly TextSequence[],
  router: KeptRouter,
  threads: number | undefined,
): Promise<ReadonlyMap<TextSequence, Uint16Array>> {
  return withKeptRouter(router, threads, async (route) => {
    const routes = new Map<TextSequence, Uint16Array>();
    for (const sequence of test) routes.set(sequence, await route(sequence.tokenIds));
    return routes;
  });
}

function sharesOf(
  test: readonly TextSequence[],
  routes: ReadonlyMap<TextSequence, Uint16Array>,
  kind: number,
  numExperts: number,
): readonly number[] {
  const counts = Array.from({ length: numExperts }, () => 0);
  for (const sequence of test.filter(({ domain }) => domain === kind)) {
    for (const expert of routes.get(sequence) ?? []) counts[expert]!++;
  }
  const all = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => (all > 0 ? count / all : 0));
}
