import { megabytes } from "@readme-moe/core";
import { BLOCK_MIX_NAMES, type BlockMixName } from "../blocks/block-mixes.ts";
import { exportGguf } from "../export/export-gguf.ts";
import { EXPORT_DTYPES, exportTransformersJs, type ExportProgress } from "../export/export-transformersjs.ts";
import type { ExportDtype } from "../export/export-weights.ts";
import { Command, Option } from "commander";
import {
  MODEL_ARGUMENT,
  withModelFiles,
  namesOf,
  jsonOption,
  requireOption,
  showStatus,
} from "readme-moe/command-parts";
import { dataArgument, type DataArgument, readDomains } from "./job.ts";

interface ExportFlags {
  readonly format: "transformers.js" | "gguf";
  readonly out: string;
  readonly dtype: readonly ExportDtype[];
  readonly type?: BlockMixName;
  readonly calibrate?: readonly DataArgument[];
  readonly json: boolean;
}

export function exportCommand(signal: AbortSignal): Command {
  const command = new Command("export")
    .summary("write a model in another program's format")
    .description(
      "Writes a dense model as a folder that transformers.js loads: ONNX graphs, configs and tokenizer; q8 and q4 are " +
        "quantised as by its own conversion scripts. Or writes a GGUF file again in fewer bits.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .addOption(
      new Option("--format <format>", "format to write")
        .choices(["transformers.js", "gguf"])
        .default("transformers.js"),
    )
    .option("--out <path>", "a folder that does not exist yet, or is empty; with gguf a new file (required)")
    .addOption(
      new Option("--dtype <list>", `transformers.js: any of ${EXPORT_DTYPES.join(",")}`)
        .argParser(namesOf(EXPORT_DTYPES))
        .default(EXPORT_DTYPES, "all"),
    )
    .addOption(
      new Option("--type <mix>", "gguf: types of blocks, as llama.cpp mixes them (required)").choices(BLOCK_MIX_NAMES),
    )
    .addOption(
      new Option(
        "--calibrate <file...>",
        "gguf: texts that show which inputs are large, and whose weights are rounded best (default: none)",
      ).argParser(dataArgument),
    )
    .addOption(jsonOption());
  return command.action((path: string, flags: ExportFlags) => {
    requireOption(command, "out");
    checkFormat(command, flags);
    return runExport(path, flags, signal);
  });
}

/** Refuses options of another format. */
function checkFormat(command: Command, { format }: ExportFlags): void {
  if (format === "gguf") requireOption(command, "type");
  const others = format === "gguf" ? ["dtype"] : ["type", "calibrate"];
  const wrong = others.find((name) => command.getOptionValueSource(name) === "cli");
  if (wrong !== undefined) command.error(`error: option '--${wrong}' is not for the format ${format}`);
}

async function runExport(path: string, flags: ExportFlags, signal: AbortSignal): Promise<void> {
  const { out, dtype, type, calibrate, json } = flags;
  const calibration = calibrate && (await readDomains(calibrate));
  await withModelFiles(path, signal, async (model) => {
    const shared = { signal, onProgress: showProgress };
    const written = type
      ? exportGguf(model, out, { mix: type, calibration, ...shared }).then((file) => [file])
      : exportTransformersJs(model, out, { dtypes: dtype, ...shared });
    const files = await written.finally(() => showStatus());
    if (json) return console.log(JSON.stringify({ out, files }));
    for (const { name, bytes } of files) console.log(`${name}  ${megabytes(bytes)}`);
  });
}

function showProgress({ file, doneBytes, ofBytes }: ExportProgress): void {
  showStatus(`writing ${file} ${(doneBytes / 1e6).toFixed(0)} of ${(ofBytes / 1e6).toFixed(0)} MB`);
}
