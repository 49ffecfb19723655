import { fleetShards, SHARINGS, type LoraOptions, type LoraProgress } from "../lora/options.ts";
import { tune } from "../tuning/tune.ts";
import { tuneLoras } from "../lora/tune-loras.ts";
import {
  TUNE_METHODS,
  TUNE_SHARINGS,
  type TuneOptions,
  type TuneEstimate,
  type TuneProgress,
} from "../tuning/options.ts";
import type { DomainText } from "../job/prepare-domain.ts";
import type { LoraReport } from "../lora/lora-report.ts";
import type { TuningReport } from "../tuning/tuning-report.ts";
import { Command, Option } from "commander";
import {
  artefactsOption,
  fleetOption,
  type FleetFlags,
  MODEL_ARGUMENT,
  withModelFiles,
  numberThat,
  wholeNumber,
  jsonOption,
  requireOption,
  showStatus,
  signed,
} from "readme-moe/command-parts";
import { dataArgument, readDomains, type DataArgument } from "./domains.ts";
import { openRefactorFleet, requireBoth } from "./machines.ts";

interface TuneFlags extends Omit<TuneOptions, "sharing">, Omit<LoraOptions, "sharing">, FleetFlags {
  readonly sharing?: string | undefined;
  readonly experts?: "low-rank";
  readonly teacher?: string;
  readonly data: readonly DataArgument[];
  readonly out: string;
  readonly threads?: number;
  readonly checkpointSeconds: number;
  readonly resume: boolean;
  readonly json: boolean;
  readonly artefacts?: string;
}

/** Flags that only one of both kinds of tuning has. */
const DISTILLATION_FLAGS = ["teacher", "method", "weightDecay", "labelShare", "patience", "rounds"] as const;
const LORA_FLAGS = [
  "alpha",
  "sharedShare",
  "constantShare",
  "teacherShare",
  "rival",
  "shards",
  "fleet",
  "artefacts",
] as const;

/** Time between two looks at the tasks of a step, which take about a second. */
const POLL_MS = 20;

const rate = numberThat((value) => value >= 0, "a number from 0 up, such as 0.001");

export function tuneCommand(signal: AbortSignal): Command {
  const command = new Command("tune")
    .summary("let a refactored model learn from its dense one, or train experts of low rank over a dense one")
    .description(
      "Distils a dense model into the Read-ME model that was made from it: experts and norms learn to predict what the " +
        "dense model predicts for each next token. Writes a tuned Read-ME model folder with a report. " +
        "With --experts low-rank: trains experts of low rank (LoRA) over a dense model, one for each kind of text, and a " +
        "router. Writes a folder that --lora takes, with a report. " +
        "An interrupted run keeps its work: the same call with --resume continues it.",
    )
    .argument("<model>", "a Read-ME model folder; with --experts low-rank a dense model")
    .addOption(
      new Option("--experts <kind>", "train experts of this kind over a dense model").choices(["low-rank"] as const),
    )
    .option("--teacher <model>", `the dense model of a Read-ME model, which needs it: ${MODEL_ARGUMENT}`)
    .option("--out <folder>", "a folder that does not exist yet, or is empty (required)")
    .addOption(
      new Option(
        "--data <name=file...>",
        'text of each kind: .jsonl files of {"text": …}, or text files; every twelfth document is held out for evaluation (required)',
      ).argParser(dataArgument),
    )
    .option(
      "--tokens <n>",
      "training tokens of all kinds together (default: 500000; with loras 50000 a kind)",
      wholeNumber(1),
    )
    .addOption(
      new Option(
        "--method <method>",
        "what is trained of the experts: changes of low rank, or all weights (default: lora)",
      ).choices(TUNE_METHODS),
    )
    .option("--rank <n>", "rank of the changes (default: 32 with --method lora, 16 of loras)", wholeNumber(1))
    .option("--alpha <x>", "loras: factor of the changes times their rank (default: the rank)", rate)
    .option("--attention", "train the attention as well", false)
    .addOption(
      new Option(
        "--sharing <what>",
        "common part of experts: neurons of the dense model, or none; of loras: ranks, what they start from, or " +
          "none (default: neurons with lora, none with full, ranks of loras)",
      ).choices([...new Set([...TUNE_SHARINGS, ...SHARINGS])]),
    )
    .option(
      "--shared-rank <n>",
      "with --sharing neurons: rank of the common changes; with ranks: number of common ranks (default: that of --rank; " +
        "half of it of loras)",
      wholeNumber(0),
    )
    .option(
      "--shared-share <share>",
      "with --sharing start: share of the tokens from which all kinds learn together (default: 0.5)",
      rate,
    )
    .option(
      "--constant-share <share>",
      "loras: share of the tokens before the learning rate falls (default: 0.5)",
      rate,
    )
    .option(
      "--teacher-share <share>",
      "loras: weight of the divergence from the dense model beside the text's next tokens (default: 0)",
      rate,
    )
    .option("--no-rival", "loras: do not train one expert for all kinds for comparison")
    .option(
      "--learning-rate <rate>",
      "largest learning rate (default: 0.002 with lora, 0.0001 with full, 0.003 of loras)",
      rate,
    )
    .option("--weight-decay <share>", "with --method full: weight decay of matrices (default: 0.01)", rate)
    .option("--label-share <share>", "weight of the text's own next tokens beside the teacher's (default: 0.3)", rate)
    .option("--sequence-tokens <n>", "tokens of a sequence", wholeNumber(8), 256)
    .option("--batch-sequences <n>", "sequences of a step (default: 16; loras: 2)", wholeNumber(1))
    .option(
      "--micro-sequences <n>",
      "sequences of a step that are in memory together (default: 8, or fewer; loras: 4)",
      wholeNumber(1),
    )
    .option(
      "--shards <n>",
      "loras: parts of a step's sequences that machines take side by side; decides the last bits (default: 1, " +
        "with --fleet a part for each sequence, at most 8)",
      wholeNumber(1),
    )
    .option("--warm-up-steps <n>", "steps over which the rate rises (default: a twentieth of all)", wholeNumber(0))
    .option("--evaluation-sequences <n>", "held-out sequences of each kind (default: 4; loras: 12)", wholeNumber(1))
    .option("--evaluations <n>", "evaluations during training (default: 8; of each lora: 2)", wholeNumber(1))
    .option(
      "--patience <n>",
      "evaluations without improvement that end the training; 0 for never (default: 3)",
      wholeNumber(0),
    )
    .option("--rounds <n>", "rounds of tuning; the router is trained again between them (default: 1)", wholeNumber(1))
    .option("--router-steps <n>", "steps of a router's training (default: 200; loras: 400)", wholeNumber(1))
    .option(
      "--router-tokens <n>",
      "tokens of each kind to measure the router's costs on (default: 4096; loras: 2048)",
      wholeNumber(1),
    )
    .option("--seed <n>", "seed of all random choices", wholeNumber(0), 1)
    .option("--threads <n>", "threads of the inference runtime (default: all cores)", wholeNumber(1))
    .option(
      "--checkpoint-seconds <n>",
      "about the most work that is lost when the process is killed",
      wholeNumber(0),
      300,
    )
    .addOption(fleetOption("loras: train on the machines of this Valkey or Redis (`worker --refactor`)"))
    .addOption(artefactsOption())
    .option("--resume", "continue unfinished work for this folder", false)
    .addOption(jsonOption());
  return command.action((path: string, flags: TuneFlags) => {
    const isOfLoras = flags.experts === "low-rank";
    for (const name of ["out", "data", ...(isOfLoras ? [] : ["teacher"])]) requireOption(command, name);
    const [others, kind] = isOfLoras ? [DISTILLATION_FLAGS, "with"] : [LORA_FLAGS, "without"];
    for (const name of others) {
      if (command.getOptionValueSource(name) !== "cli") continue;
      const flag = command.options.find((option) => option.attributeName() === name)?.long ?? name;
      command.error(`error: option '${flag}' cannot be used ${kind} --experts low-rank`);
    }
    requireBoth(command, flags.artefacts);
    const { sharing } = flags;
    return isOfLoras
      ? runLoras(path, { ...flags, sharing: sharingOf(command, SHARINGS, sharing) }, signal)
      : runTune(path, { ...flags, sharing: sharingOf(command, TUNE_SHARINGS, sharing) }, signal);
  });
}

/** Returns the given name of `names`; another one is the caller's mistake. */
function sharingOf<Name extends string>(
  command: Command,
  names: readonly Name[],
  given: string | undefined,
): Name | undefined {
  const known = names.find((name) => name === given);
  if (given === undefined || known !== undefined) return known;
  return command.error(`error: option '--sharing' of these experts is one of ${names.join(", ")}, got ${given}`);
}

async function runTune(
  path: string,
  flags: TuneFlags & Pick<TuneOptions, "sharing">,
  signal: AbortSignal,
): Promise<void> {
  const { teacher: teacherName = "", experts: _, data, out, threads, checkpointSeconds, resume, json, ...rest } = flags;
  const { rival: __, fleet: ___, ...options } = rest;
  const texts = await readDomains(data);
  await withModelFiles(path, signal, (student) =>
    withModelFiles(teacherName, signal, async (teacher) => {
      const shows = json ? {} : { onEstimate: showEstimate, onProgress: showProgress };
      const sources = { source: path, teacherSource: teacherName };
      const run = { ...shows, ...sources, resume, threads, signal, checkpointMs: checkpointSeconds * 1000 };
      const report = await tune({ student, teacher }, texts, out, { ...options, ...run }).finally(() => showStatus());
      console.log(json ? JSON.stringify(report) : summaryOf(report, out));
    }),
  );
}

async function runLoras(
  path: string,
  flags: TuneFlags & Pick<LoraOptions, "sharing">,
  signal: AbortSignal,
): Promise<void> {
  const { experts: _, data, out, threads, checkpointSeconds, resume, json, fleet: url, artefacts, ...options } = flags;
  const texts: readonly DomainText[] = await readDomains(data);
  await withModelFiles(path, signal, async (model) => {
    await using fleet = await openRefactorFleet({ fleet: url, artefacts }, { pollMs: POLL_MS });
    const shows = json ? {} : { onEstimate: showEstimate, onProgress: showLoraProgress };
    const checkpointMs = checkpointSeconds * 1000;
    const run = { ...shows, source: path, resume, threads, signal, checkpointMs, fleet };
    const shards = flags.shards ?? (fleet ? fleetShards(flags.batchSequences) : 1);
    const report = await tuneLoras(model, texts, out, { ...options, shards, ...run }).finally(() => showStatus());
    console.log(json ? JSON.stringify(report) : loraSummary(report, path, out));
  });
}

/** Shows the time and memory that a tuning will take. */
function showEstimate({ trainedParameters, steps, tokensPerS, ms, memoryBytes }: TuneEstimate): void {
  console.error(
    `Training ${(trainedParameters / 1e6).toFixed(1)} million parameters in ${steps} steps, at about ` +
      `${tokensPerS.toFixed(0)} tokens/s in ${duration(ms)} and ${(memoryBytes / 1e9).toFixed(1)} GB of memory.`,
  );
}

/** Shows a step of a tuning. */
function showProgress(progress: TuneProgress): void {
  const { step, steps, divergence, crossEntropy, tokensPerS, etaMs, evaluation } = progress;
  const line =
    `step ${step} of ${steps}  divergence ${divergence.toFixed(4)}  loss ${crossEntropy.toFixed(4)}  ` +
    `${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} left`;
  showLine(evaluation ? `${line}  held out ${evaluation.mean.toFixed(4)}` : line, evaluation !== undefined);
}

/** Shows a step of a training of loras. */
function showLoraProgress({ stage, name, step, steps, etaMs, figures }: LoraProgress): void {
  const part = stage === "expert" ? `experts of ${name}` : name;
  const at = `${part}: step ${step} of ${steps}`;
  if (!figures) return showLine(at, false);
  const { crossEntropy, tokensPerS, evaluation } = figures;
  const line = `${at}  loss ${crossEntropy.toFixed(4)}  ${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} left`;
  showLine(evaluation ? `${line}  held out ${evaluation.mean.toFixed(4)}` : line, evaluation !== undefined);
}

/** Shows a line in place of the one before on a terminal, unless it is to stay. */
function showLine(line: string, stays: boolean): void {
  if (stays) showStatus();
  if (!stays && process.stderr.isTTY) showStatus(line);
  else console.error(line);
}

/** Describes loras that were trained. */
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

/** Describes a model that was tuned. */
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

function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}
