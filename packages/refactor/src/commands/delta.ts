// `pack` and `apply`: a model as a small file of changes to public weights, and back.

import { megabytes } from "@readme-moe/core";
import { packDelta, type PackProgress, type PackReport } from "../delta/pack.ts";
import { applyDelta } from "../delta/apply.ts";
import { Command, Option } from "commander";
import {
  MODEL_ARGUMENT,
  withModelFiles,
  byteSize,
  jsonOption,
  requireOption,
  showStatus,
  percent,
} from "readme-moe/command-parts";
import { dataArgument, readDomains, type DataArgument } from "./job.ts";

interface PackFlags {
  readonly base: string;
  readonly out: string;
  readonly data?: readonly DataArgument[];
  /** Largest size of the file, in bytes. */
  readonly maxSize: number;
  readonly json: boolean;
}

export function packCommand(signal: AbortSignal): Command {
  const command = new Command("pack")
    .summary("write a Read-ME model as a small file of changes to public weights")
    .description(
      "Writes the difference between a Read-ME model and the dense model that it was refactored from: the neurons of each " +
        "expert, the changes of its weights in as few bits as fit, and the router. `readme-moe apply` makes the model again.",
    )
    .argument("<model>", "Read-ME model folder, tuned or not")
    .option("--base <model>", `the dense model that it was made from: ${MODEL_ARGUMENT} (required)`)
    .option("--out <file>", "the delta file; an existing one is replaced (required)")
    .addOption(
      new Option(
        "--data <name=file...>",
        "text of each kind, to round changes where they matter least: less is lost in the same size",
      ).argParser(dataArgument),
    )
    .addOption(new Option("--max-size <size>", "largest size of the file").argParser(byteSize).default(40e6, "40MB"))
    .addOption(jsonOption());
  return command.action((path: string, flags: PackFlags) => {
    requireOption(command, "base");
    requireOption(command, "out");
    return runPack(path, flags, signal);
  });
}

async function runPack(path: string, flags: PackFlags, signal: AbortSignal): Promise<void> {
  const { base: baseName, out, data, maxSize, json } = flags;
  const texts = data && (await readDomains(data));
  await withModelFiles(path, signal, (model) =>
    withModelFiles(baseName, signal, async (base) => {
      const options = { maxBytes: maxSize, texts, signal, onProgress: json ? undefined : showProgress };
      const report = await packDelta(model, base, out, options).finally(() => showStatus());
      console.log(json ? JSON.stringify({ out, ...report }) : summaryOf(report, out));
    }),
  );
}

function showProgress({ stage, done, of }: PackProgress): void {
  showStatus(of > 1 ? `${stage} tensors ${done} of ${of}` : `${stage} the base model`);
}

function summaryOf({ bytes, base, changed_values: changed, relative_errors: errors }: PackReport, out: string): string {
  const kinds = Object.entries(errors).map(([kind, error]) => `  ${kind}: changes differ by ${percent(error)} %`);
  // Weights that are stored exactly do not count as changed.
  const cost = changed === 0 ? "nothing is lost" : `${((8 * bytes) / changed).toFixed(2)} bits per changed weight`;
  return [`${out}  ${megabytes(bytes)}, ${cost}`, ...kinds, `Base: ${base.name}, sha256 ${base.sha256}`].join("\n");
}

interface ApplyFlags {
  readonly base: string;
  readonly out: string;
  readonly json: boolean;
}

export function applyCommand(signal: AbortSignal): Command {
  const command = new Command("apply")
    .summary("make a Read-ME model from a dense one and a delta file")
    .description(
      "Writes the Read-ME model folder that a delta file (`readme-moe pack`) makes from a dense model. Nothing is " +
        "trained; it takes seconds. The base model in another precision is accepted with a warning, another model is not.",
    )
    .argument("<file>", "delta file")
    .option("--base <model>", `the dense model that the file changes: ${MODEL_ARGUMENT} (required)`)
    .option("--out <folder>", "a folder that does not exist yet, or is empty (required)")
    .addOption(jsonOption());
  return command.action((path: string, flags: ApplyFlags) => {
    requireOption(command, "base");
    requireOption(command, "out");
    return runApply(path, flags, signal);
  });
}

async function runApply(path: string, { base: baseName, out, json }: ApplyFlags, signal: AbortSignal): Promise<void> {
  await withModelFiles(baseName, signal, async (base) => {
    const startMs = performance.now();
    const report = await applyDelta(path, base, out, {
      signal,
      onWarning: (message) => console.error(`warning: ${message}`),
      onProgress: json ? undefined : ({ done, of }) => showStatus(`tensor ${done} of ${of}`),
    }).finally(() => showStatus());
    const seconds = (performance.now() - startMs) / 1e3;
    if (json) console.log(JSON.stringify({ out, seconds, ...report }));
    else console.log(`Written to ${out} in ${seconds.toFixed(1)} s: try \`readme-moe chat ${out}\`.`);
  });
}
