import { megabytes } from "@readme-moe/core";
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

interface ExportFlags {
  readonly out: string;
  readonly dtype: readonly ExportDtype[];
  readonly json: boolean;
}

export function exportCommand(signal: AbortSignal): Command {
  const command = new Command("export")
    .summary("write a model in another program's format")
    .description(
      "Writes a dense model as a folder that transformers.js loads: ONNX graphs, configs and tokenizer. " +
        "q8 and q4 are quantised as by its own conversion scripts.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .addOption(
      new Option("--format <format>", "format to write").choices(["transformers.js"]).default("transformers.js"),
    )
    .option("--out <folder>", "a folder that does not exist yet, or is empty (required)")
    .addOption(
      new Option("--dtype <list>", `any of ${EXPORT_DTYPES.join(",")}`)
        .argParser(namesOf(EXPORT_DTYPES))
        .default(EXPORT_DTYPES, "all"),
    )
    .addOption(jsonOption());
  return command.action((path: string, flags: ExportFlags) => {
    requireOption(command, "out");
    return runExport(path, flags, signal);
  });
}

async function runExport(path: string, { out, dtype, json }: ExportFlags, signal: AbortSignal): Promise<void> {
  await withModelFiles(path, signal, async (model) => {
    const options = { dtypes: dtype, signal, onProgress: showProgress };
    const files = await exportTransformersJs(model, out, options).finally(() => showStatus());
    if (json) return console.log(JSON.stringify({ out, files }));
    for (const { name, bytes } of files) console.log(`${name}  ${megabytes(bytes)}`);
  });
}

function showProgress({ file, doneBytes, ofBytes }: ExportProgress): void {
  showStatus(`writing ${file} ${(doneBytes / 1e6).toFixed(0)} of ${(ofBytes / 1e6).toFixed(0)} MB`);
}
