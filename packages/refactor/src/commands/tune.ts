import { Command, Option } from "commander";
import { MODEL_ARGUMENT, showStatus, signed, wholeNumber, withModelFiles } from "readme-moe/command-parts";
import { HEAD_OPTIONS, type HeadOptions, type HeadProgress } from "../draft-head/options.ts";
import { type HeadReport, trainDraftHead } from "../draft-head/train-draft-head.ts";
import type { LoraReport } from "../lora/lora-report.ts";
import { fleetShards, LORA_OPTIONS, type LoraOptions, type LoraProgress } from "../lora/options.ts";
import { tuneLoras } from "../lora/tune-loras.ts";
import { pickOptions } from "../option-table.ts";
import { duration } from "../report/verdict.ts";
import { TUNE_OPTIONS, type TuneEstimate, type TuneOptions, type TuneProgress } from "../tuning/options.ts";
import { tune } from "../tuning/tune.ts";
import type { TuningReport } from "../tuning/tuning-report.ts";
import {
  addJobFlags,
  flagsOf,
  type JobFlags,
  openRefactorFleet,
  printReport,
  readDomains,
  requireJobFlags,
} from "./job.ts";

interface TuneFlags
  extends JobFlags, Omit<TuneOptions, "sharing">, Omit<LoraOptions, "sharing">, Omit<HeadOptions, "sharing"> {
  readonly sharing?: string | undefined;
  readonly experts?: "low-rank";
  readonly draftHead?: true;
  readonly teacher?: string;
  readonly checkpointSeconds: number;
}

/** Options and further flags of each kind of tuning, and the flag that chooses it. */
const KINDS = {
  distillation: { flag: undefined, table: TUNE_OPTIONS, others: ["teacher"] },
  loras: { flag: "--experts low-rank", table: LORA_OPTIONS, others: ["fleet", "artefacts"] },
  head: { flag: "--draft-head", table: HEAD_OPTIONS, others: [] },
} as const;

type Kind = keyof typeof KINDS;

function flagNamesOf(kind: Kind): readonly string[] {
  return [...KINDS[kind].others, ...Object.keys(KINDS[kind].table)];
}

/** Sequences between two lines about the model's states where lines stay. */
const STATES_SHOWN = 50;
/** Time between two looks at the tasks of a step, which take about a second. */
const POLL_MS = 20;

export function tuneCommand(signal: AbortSignal): Command {
  const command = new Command("tune")
    .summary(
      "let a refactored model learn from its dense one, or train experts of low rank or a draft head over a dense one",
    )
    .description(
      "Distils a dense model into the Read-ME model that was made from it: experts and norms learn to predict what the " +
        "dense model predicts for each next token. Writes a tuned Read-ME model folder with a report. " +
        "With --experts low-rank: trains experts of low rank (LoRA) over a dense model, one for each kind of text, and a " +
        "router. Writes a folder that --lora takes, with a report. " +
        "With --draft-head: trains a head over a dense model that drafts its next tokens (EAGLE-3). Writes a folder in the " +
        "layout of other engines' heads, with a report. " +
        "An interrupted run keeps its work: the same call with --resume continues it.",
    )
    .argument("<model>", "a Read-ME model folder; with --experts or --draft-head a dense model")
    .addOption(
      new Option("--experts <kind>", "train experts of this kind over a dense model").choices(["low-rank"] as const),
    )
    .addOption(new Option("--draft-head", "train a draft head over a dense model").conflicts("experts"))
    .option("--teacher <model>", `the dense model of a Read-ME model, which needs it: ${MODEL_ARGUMENT}`);
  const machines = "loras: train on the machines of this Valkey or Redis (`worker --refactor`)";
  return addJobFlags(command, flagsOf(TUNE_OPTIONS, { loras: LORA_OPTIONS, heads: HEAD_OPTIONS }), machines)
    .option(
      "--checkpoint-seconds <n>",
      "about the most work that is lost when the process is killed",
      wholeNumber(0),
      300,
    )
    .action((path: string, flags: TuneFlags) => {
      const kind = flags.draftHead ? "head" : flags.experts === "low-rank" ? "loras" : "distillation";
      requireJobFlags(command, flags, ...(kind === "distillation" ? ["teacher"] : []));
      refuseOthers(command, kind);
      if (kind === "head") return runHead(path, flags, signal);
      const { choices } = KINDS[kind].table.sharing;
      if (flags.sharing !== undefined && !choices.some((name) => name === flags.sharing)) {
        command.error(
          `error: option '--sharing' of these experts is one of ${choices.join(", ")}, got ${flags.sharing}`,
        );
      }
      return kind === "loras" ? runLoras(path, flags, signal) : runTune(path, flags, signal);
    });
}

/** Refuses flags that only other kinds of tuning have. */
function refuseOthers(command: Command, kind: Kind): void {
  const own = new Set(flagNamesOf(kind));
  for (const other of Object.keys(KINDS) as Kind[]) {
    for (const name of flagNamesOf(other)) {
      if (own.has(name) || command.getOptionValueSource(name) !== "cli") continue;
      const flag = command.options.find((option) => option.attributeName() === name)?.long ?? name;
      const where = KINDS[kind].flag === undefined ? `without ${KINDS[other].flag}` : `with ${KINDS[kind].flag}`;
      command.error(`error: option '${flag}' cannot be used ${where}`);
    }
  }
}

async function runHead(path: string, flags: TuneFlags, signal: AbortSignal): Promise<void> {
  const { data, out, threads, checkpointSeconds, resume, json } = flags;
  const texts = await readDomains(data);
  const names = texts.map(({ name }) => name);
  await withModelFiles(path, signal, async (model) => {
    const onProgress = json ? undefined : (progress: HeadProgress) => showHeadProgress(progress, names);
    const run = { source: path, resume, threads, signal, checkpointMs: checkpointSeconds * 1000, onProgress };
    const { sharing: _, ...known } = flags;
    const job = trainDraftHead(model, texts, out, { ...pickOptions(HEAD_OPTIONS, known), ...run });
    await printReport(job, flags, (report) => headSummary(report, out));
  });
}

async function runTune(path: string, flags: TuneFlags, signal: AbortSignal): Promise<void> {
  const { teacher: teacherName = "", data, out, threads, checkpointSeconds, resume, json } = flags;
  const texts = await readDomains(data);
  await withModelFiles(path, signal, (student) =>
    withModelFiles(teacherName, signal, async (teacher) => {
      const shows = json ? {} : { onEstimate: showEstimate, onProgress: showProgress };
      const sources = { source: path, teacherSource: teacherName };
      const run = { ...shows, ...sources, resume, threads, signal, checkpointMs: checkpointSeconds * 1000 };
      const job = tune({ student, teacher }, texts, out, { ...pickOptions(TUNE_OPTIONS, flags), ...run });
      await printReport(job, flags, (report) => summaryOf(report, out));
    }),
  );
}

async function runLoras(path: string, flags: TuneFlags, signal: AbortSignal): Promise<void> {
  const { data, out, threads, checkpointSeconds, resume, json } = flags;
  const texts = await readDomains(data);
  await withModelFiles(path, signal, async (model) => {
    await using fleet = await openRefactorFleet(flags, { pollMs: POLL_MS });
    const shows = json ? {} : { onEstimate: showEstimate, onProgress: showLoraProgress };
    const checkpointMs = checkpointSeconds * 1000;
    const run = { ...shows, source: path, resume, threads, signal, checkpointMs, fleet };
    const shards = flags.shards ?? (fleet ? fleetShards(flags.batchSequences) : 1);
    const job = tuneLoras(model, texts, out, { ...pickOptions(LORA_OPTIONS, flags), shards, ...run });
    await printReport(job, flags, (report) => loraSummary(report, path, out));
  });
}

function showEstimate({ trainedParameters, steps, tokensPerS, ms, memoryBytes }: TuneEstimate): void {
  console.error(
    `Training ${(trainedParameters / 1e6).toFixed(1)} million parameters in ${steps} steps, at about ` +
      `${tokensPerS.toFixed(0)} tokens/s in ${duration(ms)} and ${(memoryBytes / 1e9).toFixed(1)} GB of memory.`,
  );
}

function showProgress(progress: TuneProgress): void {
  const { step, steps, divergence, crossEntropy, tokensPerS, etaMs, evaluation } = progress;
  const line =
    `step ${step} of ${steps}  divergence ${divergence.toFixed(4)}  loss ${crossEntropy.toFixed(4)}  ` +
    `${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} left`;
  showLine(evaluation ? `${line}  held out ${evaluation.mean.toFixed(4)}` : line, evaluation !== undefined);
}

function showLoraProgress({ stage, name, step, steps, etaMs, figures }: LoraProgress): void {
  const part = stage === "expert" ? `experts of ${name}` : name;
  const at = `${part}: step ${step} of ${steps}`;
  if (!figures) return showLine(at, false);
  const { crossEntropy, tokensPerS, evaluation } = figures;
  const line = `${at}  loss ${crossEntropy.toFixed(4)}  ${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} left`;
  showLine(evaluation ? `${line}  held out ${evaluation.mean.toFixed(4)}` : line, evaluation !== undefined);
}

function showHeadProgress(progress: HeadProgress, names: readonly string[]): void {
  if (progress.stage === "states") {
    const { done, of } = progress;
    if (process.stderr.isTTY || done === of || done % STATES_SHOWN === 0)
      showLine(`states of ${done} of ${of} sequences`, false);
    return;
  }
  const { step, steps, crossEntropy, tokensPerS, etaMs, evaluation, accepted } = progress;
  const line =
    `step ${step} of ${steps}  loss ${crossEntropy.toFixed(4)}  ` +
    `${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} left`;
  if (!evaluation || !accepted) return showLine(line, false);
  const kinds = names.map((name, kind) => `${name} ${accepted[kind]?.at(-1)?.toFixed(2)}`).join(", ");
  showLine(`${line}  held out ${evaluation.mean.toFixed(4)}, accepted drafts of 4: ${kinds}`, true);
}

/** Shows a line in place of the one before on a terminal, unless it is to stay. */
function showLine(line: string, stays: boolean): void {
  if (stays) showStatus();
  if (!stays && process.stderr.isTTY) showStatus(line);
  else console.error(line);
}

function loraSummary({ dense, rival, label, router, tokens }: LoraReport, model: string, out: string): string {
  return [
    row("dense", dense),
    ...(rival ? [row("one for all", rival)] : []),
    row("own expert", label),
    row("router", router),
    "",
    `Trained on ${tokens} tokens. Written to ${out}: try \`readme-moe chat ${model} --lora ${out}\`.`,
  ].join("\n");
}

function headSummary({ accepted, vocabulary_share: shares, tokens }: HeadReport, out: string): string {
  const lines = Object.entries(accepted).map(([name, chains]) => {
    const means = chains.map((mean) => mean.toFixed(2)).join("  ");
    return `${name.padEnd(14)} ${means}  vocabulary ${((shares[name] ?? 0) * 100).toFixed(1)} %`;
  });
  return [
    "Accepted drafts in chains of 1 to 4, and the share of the text that can be drafted:",
    ...lines,
    "",
    `Trained on ${tokens} tokens. Written to ${out}.`,
  ].join("\n");
}

function summaryOf({ dense, before, after, tokens }: TuningReport, out: string): string {
  return [
    row("dense", dense),
    row("before", before),
    row("tuned", after),
    "",
    `Trained on ${tokens} tokens. Written to ${out}: try \`readme-moe chat ${out}\`.`,
  ].join("\n");
}

function row(name: string, { mean, above_dense: above }: TuningReport["dense"]): string {
  return `${name.padEnd(11)} loss ${mean.toFixed(4)}  ${signed(above)}`;
}
