import { openModel } from "@readme-moe/model";
import {
  tune,
  TUNE_METHODS,
  type TuneEstimate,
  type TuneOptions,
  type TuneProgress,
  type TuningReport,
} from "@readme-moe/refactor";
import { Command, InvalidArgumentError, Option } from "commander";
import { MODEL_ARGUMENT, modelPath } from "../model-path.ts";
import { jsonOption, requireOption, wholeNumber } from "../options.ts";
import { dataArgument, readDomains, type DataArgument } from "../refactor/domain-data.ts";
import { showStatus } from "../progress.ts";

interface TuneFlags extends TuneOptions {
  readonly teacher: string;
  readonly data: readonly DataArgument[];
  readonly out: string;
  readonly threads?: number;
  readonly checkpointSeconds: number;
  readonly resume: boolean;
  readonly json: boolean;
}

export function tuneCommand(signal: AbortSignal): Command {
  const command = new Command("tune")
    .summary("let a refactored model learn from its dense one")
    .description(
      "Distils a dense model into the Read-ME model that was made from it: experts and norms learn to say what the dense\n" +
        "model says of each next token. Writes a tuned Read-ME model folder with a report. Interrupted, it keeps its work:\n" +
        "the same call with --resume goes on with it.",
    )
    .argument("<model>", "a Read-ME model folder")
    .option("--teacher <model>", `the dense model: ${MODEL_ARGUMENT}`)
    .option("--out <folder>", "a folder that does not exist yet, or is empty")
    .addOption(
      new Option(
        "--data <name=file...>",
        'text of each kind: .jsonl files of {"text": …}, or text files; every twelfth document is held out to measure on',
      ).argParser(dataArgument),
    )
    .option("--tokens <n>", "to learn from, all kinds together", wholeNumber(1), 500_000)
    .addOption(
      new Option("--method <method>", "what learns of the experts: changes of low rank, or all weights")
        .choices(TUNE_METHODS)
        .default("lora"),
    )
    .option("--rank <n>", "of the changes with --method lora", wholeNumber(1), 32)
    .option("--attention", "attention learns, too", false)
    .option("--learning-rate <rate>", "the highest (default: 0.002 with lora, 0.0001 with full)", number)
    .option("--weight-decay <share>", "with --method full, of matrices", number, 0.01)
    .option("--label-share <share>", "what the text's own next tokens count beside the teacher's", number, 0.3)
    .option("--sequence-tokens <n>", "of a sequence", wholeNumber(8), 256)
    .option("--batch-sequences <n>", "sequences of one step", wholeNumber(1), 16)
    .option("--micro-sequences <n>", "of these, in memory together (default: 8, or fewer)", wholeNumber(1))
    .option("--warm-up-steps <n>", "over which the rate rises (default: a twentieth of all)", wholeNumber(0))
    .option("--evaluation-sequences <n>", "held out, of each kind", wholeNumber(1), 4)
    .option("--evaluations <n>", "measurements on the way", wholeNumber(1), 8)
    .option("--patience <n>", "measurements without gain that end it; 0 for never", wholeNumber(0), 3)
    .option("--rounds <n>", "of tuning, with new training of the router between them", wholeNumber(1), 1)
    .option("--router-steps <n>", "of each of these trainings", wholeNumber(1), 200)
    .option(
      "--router-tokens <n>",
      "of each kind of text, that costs are measured on for the router",
      wholeNumber(1),
      4096,
    )
    .option("--seed <n>", "of everything that is drawn", wholeNumber(0), 1)
    .option("--threads <n>", "threads of the inference runtime (default: all cores)", wholeNumber(1))
    .option("--checkpoint-seconds <n>", "of work that a killed process loses at most, about", wholeNumber(0), 300)
    .option("--resume", "go on with unfinished work for this folder", false)
    .addOption(jsonOption());
  return command.action((path: string, flags: TuneFlags) => {
    for (const name of ["teacher", "out", "data"]) requireOption(command, name);
    return runTune(path, flags, signal);
  });
}

async function runTune(path: string, flags: TuneFlags, signal: AbortSignal): Promise<void> {
  const { teacher: teacherPath, data, out, threads, checkpointSeconds, resume, json, ...options } = flags;
  const texts = await readDomains(data);
  const student = await openModel(await modelPath(path, signal));
  try {
    const teacher = await openModel(await modelPath(teacherPath, signal));
    try {
      const shows = json ? {} : { onEstimate: showEstimate, onProgress: showProgress };
      const run = { ...shows, source: path, teacherSource: teacherPath, resume, threads, signal };
      const report = await tune({ student, teacher }, texts, out, {
        ...options,
        ...run,
        checkpointMs: checkpointSeconds * 1000,
      }).finally(() => showStatus());
      console.log(json ? JSON.stringify(report) : summaryOf(report, out));
    } finally {
      await teacher.close();
    }
  } finally {
    await student.close();
  }
}

function showEstimate({ trainedParameters, steps, tokensPerS, ms, memoryBytes }: TuneEstimate): void {
  console.error(
    `${(trainedParameters / 1e6).toFixed(1)} million parameters learn in ${steps} steps, at about ${tokensPerS.toFixed(0)} ` +
      `tokens/s in ${duration(ms)} and ${(memoryBytes / 1e9).toFixed(1)} GB of memory.`,
  );
}

function showProgress(progress: TuneProgress): void {
  const { step, steps, divergence, crossEntropy, tokensPerS, etaMs, evaluation } = progress;
  const line =
    `step ${step} of ${steps}  divergence ${divergence.toFixed(4)}  loss ${crossEntropy.toFixed(4)}  ` +
    `${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} to go`;
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
    `Learned from ${tokens} tokens. Written to ${out}: try \`readme-moe chat ${out}\`.`,
  ].join("\n");
}

function row(name: string, { mean, above_dense: above }: TuningReport["dense"]): string {
  return `${name.padEnd(8)} loss ${mean.toFixed(4)}  ${above < 0 ? "-" : "+"}${Math.abs(above).toFixed(4)}`;
}

function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

/** A parser of numbers from 0 up, for commander. */
function number(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value) && value >= 0) return value;
  throw new InvalidArgumentError("Expected a number from 0 up, such as 0.001.");
}
