import { openModel } from "@readme-moe/model";
import { applyDelta } from "@readme-moe/refactor";
import { Command } from "commander";
import { MODEL_ARGUMENT, modelPath } from "../model-path.ts";
import { jsonOption, requireOption } from "../options.ts";
import { showStatus } from "../progress.ts";

interface ApplyFlags {
  readonly base: string;
  readonly out: string;
  readonly json: boolean;
}

export function applyCommand(signal: AbortSignal): Command {
  const command = new Command("apply")
    .summary("make a Read-ME model of a dense one, with a delta file")
    .description(
      "Writes the Read-ME model folder that a delta file (`readme-moe pack`) makes of a dense model. Nothing is\n" +
        "trained, it takes seconds. Another precision of the file's base model is taken with a warning, another model not.",
    )
    .argument("<file>", "delta file")
    .option("--base <model>", `the dense model that it changes: ${MODEL_ARGUMENT}`)
    .option("--out <folder>", "a folder that does not exist yet, or is empty")
    .addOption(jsonOption());
  return command.action((path: string, flags: ApplyFlags) => {
    requireOption(command, "base");
    requireOption(command, "out");
    return runApply(path, flags, signal);
  });
}

async function runApply(path: string, { base: basePath, out, json }: ApplyFlags, signal: AbortSignal): Promise<void> {
  const base = await openModel(await modelPath(basePath, signal));
  try {
    const start = performance.now();
    const report = await applyDelta(path, base, out, {
      signal,
      onWarning: (message) => console.error(`warning: ${message}`),
      onProgress: json ? undefined : ({ done, of }) => showStatus(`tensor ${done} of ${of}`),
    }).finally(() => showStatus());
    const seconds = (performance.now() - start) / 1e3;
    if (json) return console.log(JSON.stringify({ out, seconds, ...report }));
    console.log(`Written to ${out} in ${seconds.toFixed(1)} s: try \`readme-moe chat ${out}\`.`);
  } finally {
    await base.close();
  }
}
