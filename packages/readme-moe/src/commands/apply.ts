import { applyDelta } from "@readme-moe/refactor";
import { Command } from "commander";
import { MODEL_ARGUMENT, withModelFiles } from "../models.ts";
import { jsonOption, requireOption } from "../options.ts";
import { showStatus } from "../terminal.ts";

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
