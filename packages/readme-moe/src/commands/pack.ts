import { openModel } from "@readme-moe/model";
import { packDelta, type PackProgress, type PackReport } from "@readme-moe/refactor";
import { Command, Option } from "commander";
import { MODEL_ARGUMENT, modelPath } from "../model-path.ts";
import { byteSize, jsonOption, requireOption } from "../options.ts";
import { dataArgument, readDomains, type DataArgument } from "../refactor/domain-data.ts";
import { showStatus } from "../progress.ts";

interface PackFlags {
  readonly base: string;
  readonly out: string;
  readonly data?: readonly DataArgument[];
  /** In bytes. */
  readonly maxSize: number;
  readonly json: boolean;
}

export function packCommand(signal: AbortSignal): Command {
  const command = new Command("pack")
    .summary("write a Read-ME model as a small file of changes to public weights")
    .description(
      "Writes what makes a Read-ME model of the dense model that it was refactored from: each expert's neurons, what is\n" +
        "different in its weights, in as few bits as fit, and the router. `readme-moe apply` makes the model of it again.",
    )
    .argument("<model>", "Read-ME model folder, tuned or not")
    .option("--base <model>", `the dense model that it was made from: ${MODEL_ARGUMENT}`)
    .option("--out <file>", "the delta file; an existing one is replaced")
    .addOption(
      new Option(
        "--data <name=file...>",
        "text of each kind, by which changes are rounded where they matter least: less is lost in the same bytes",
      ).argParser(dataArgument),
    )
    .addOption(new Option("--max-size <size>", "of the file").argParser(byteSize).default(40e6, "40MB"))
    .addOption(jsonOption());
  return command.action((path: string, flags: PackFlags) => {
    requireOption(command, "base");
    requireOption(command, "out");
    return runPack(path, flags, signal);
  });
}

async function runPack(path: string, flags: PackFlags, signal: AbortSignal): Promise<void> {
  const { base: basePath, out, data, maxSize, json } = flags;
  const texts = data && (await readDomains(data));
  const model = await openModel(path);
  try {
    const base = await openModel(await modelPath(basePath, signal));
    try {
      const options = { maxBytes: maxSize, texts, signal, onProgress: json ? undefined : showProgress };
      const report = await packDelta(model, base, out, options).finally(() => showStatus());
      console.log(json ? JSON.stringify({ out, ...report }) : summaryOf(report, out));
    } finally {
      await base.close();
    }
  } finally {
    await model.close();
  }
}

function showProgress({ stage, done, of }: PackProgress): void {
  showStatus(of > 1 ? `${stage} tensors ${done} of ${of}` : `${stage} the base model`);
}

function summaryOf({ bytes, base, changed_values: changed, relative_errors: errors }: PackReport, out: string): string {
  const kinds = Object.entries(errors).map(
    ([kind, error]) => `  ${kind}: changes are off by ${(100 * error).toFixed(1)} %`,
  );
  // What is kept as it is is not counted as changed.
  const cost = changed === 0 ? "nothing is lost" : `${((8 * bytes) / changed).toFixed(2)} bits for each changed weight`;
  return [
    `${out}  ${(bytes / 1e6).toFixed(1)} MB, ${cost}`,
    ...kinds,
    `Base: ${base.name}, sha256 ${base.sha256}`,
  ].join("\n");
}
