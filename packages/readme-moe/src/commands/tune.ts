import {
  tune,
  TUNE_METHODS,
  type TuneEstimate,
  type TuneOptions,
  type TuneProgress,
  type TuningReport,
} from "@readme-moe/refactor";
import { Command, Option } from "commander";
import { dataArgument, readDomains, type DataArgument } from "../data-files.ts";
import { MODEL_ARGUMENT, withModelFiles } from "../models.ts";
import { jsonOption, numberThat, requireOption, wholeNumber } from "../options.ts";
import { showStatus, signed } from "../terminal.ts";

interface TuneFlags extends TuneOptions {
  readonly teacher: string;
  readonly data: readonly DataArgument[];
  readonly out: string;
  readonly threads?: number;
  readonly checkpointSeconds: number;
  readonly resume: boolean;
  readonly json: boolean;
}

const rate = numberThat((value) => value >= 0, "a number from 0 up, such as 0.001");

export function tuneCommand(signal: AbortSignal): Command {
  const command = new Command("tune")
    .summary("let a refactored model learn from its dense one")
    .description(
      "Distils a dense model into the Read-ME model that was made from it: experts and norms learn to predict what the\n" +
        "dense model predicts for each next token. Writes a tuned Read-ME model folder with a report. An interrupted run\n" +
        "keeps its work: the same call with --resume continues it.",
    )
    .argument("<model>", "a Read-ME model folder")
    .option("--teacher <model>", `the dense model: ${MODEL_ARGUMENT}`)
    .option("--out <folder>", "a folder that does not exist yet, or is empty")
    .addOption(
      new Option(
        "--data <name=file...>",
        'text of each kind: .jsonl files of {"text": …}, or text files; every twelfth document is held out for evaluation',
      ).argParser(dataArgument),
    )
    .option("--tokens <n>", "training tokens of all kinds together", wholeNumber(1), 500_000)
    .addOption(
      new Option("--method <method>", "what is trained of the experts: changes of low rank, or all weights")
        .choices(TUNE_METHODS)
        .default("lora"),
    )
    .option("--rank <n>", "with --method lora: rank of the changes", wholeNumber(1), 32)
    .option("--attention", "train the attention as well", false)
    .option("--learning-rate <rate>", "largest learning rate (default: 0.002 with lora, 0.0001 with full)", rate)
    .option("--weight-decay <share>", "with --method full: weight decay of matrices", rate, 0.01)
    .option("--label-share <share>", "weight of the text's own next tokens beside the teacher's", rate, 0.3)
    .option("--sequence-tokens <n>", "tokens of a sequence", wholeNumber(8), 256)
    .option("--batch-sequences <n>", "sequences of a step", wholeNumber(1), 16)
    .option(
      "--micro-sequences <n>",
      "sequences of a step that are in memory together (default: 8, or fewer)",
      wholeNumber(1),
    )
    .option("--warm-up-steps <n>", "steps over which the rate rises (default: a twentieth of all)", wholeNumber(0))
    .option("--evaluation-sequences <n>", "held-out sequences of each kind", wholeNumber(1), 4)
    .option("--evaluations <n>", "evaluations during training", wholeNumber(1), 8)
    .option("--patience <n>", "evaluations without improvement that end the training; 0 for never", wholeNumber(0), 3)
    .option("--rounds <n>", "rounds of tuning; the router is trained again between them", wholeNumber(1), 1)
    .option("--router-steps <n>", "steps of each of these trainings", wholeNumber(1), 200)
    .option("--router-tokens <n>", "tokens of each kind to measure the router's costs on", wholeNumber(1), 4096)
    .option("--seed <n>", "seed of all random choices", wholeNumber(0), 1)
    .option("--threads <n>", "threads of the inference runtime (default: all cores)", wholeNumber(1))
    .option(
      "--checkpoint-seconds <n>",
      "about the most work that is lost when the process is killed",
      wholeNumber(0),
      300,
    )
    .option("--resume", "continue unfinished work for this folder", false)
    .addOption(jsonOption());
  return command.action((path: string, flags: TuneFlags) => {
    for (const name of ["teacher", "out", "data"]) requireOption(command, name);
    return runTune(path, flags, signal);
  });
}

async function runTune(path: string, flags: TuneFlags, signal: AbortSignal): Promise<void> {
  const { teacher: teacherName, data, out, threads, checkpointSeconds, resume, json, ...options } = flags;
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
  if (evaluation) {
    showStatus();
    console.error(`${line}  held out ${evaluation.mean.toFixed(4)}`);
  } else if (process.stderr.isTTY) showStatus(line);
  else console.error(line);
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
  return `${name.padEnd(8)} loss ${mean.toFixed(4)}  ${signed(above)}`;
}

function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}
