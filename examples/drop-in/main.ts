// Runs a script for transformers.js, and the same script with one changed line.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { runCli } from "readme-moe";

const [model = "models/pocket"] = process.argv.slice(2);
const [before, after] = ["before.mjs", "after.mjs"].map((name) => join(import.meta.dirname, name)) as [string, string];

await showDifference();
const folder = await mkdtemp(join(tmpdir(), "drop-in-"));
try {
  // transformers.js alone needs ONNX graphs; the adapter reads the checkpoint.
  const exported = join(folder, "onnx-model");
  console.log(`\nExporting ${model} for transformers.js:`);
  process.exitCode = await runCli(["export", model, "--out", exported, "--dtype", "fp32"]);
  if (process.exitCode === 0) {
    console.log(`\nbefore: ${await run(before, exported)}`);
    console.log(`after:  ${await run(after, model)}`);
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}

async function showDifference(): Promise<void> {
  const [old, now] = await Promise.all([before, after].map(async (path) => (await readFile(path, "utf8")).split("\n")));
  for (const [index, line] of (old ?? []).entries()) {
    if (line !== now?.[index]) console.log(`- ${line}\n+ ${now?.[index]}`);
  }
}

/** Runs a script. @returns its text as one line of JSON */
async function run(script: string, path: string): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [...process.execArgv, script, path]);
  return JSON.stringify(stdout.trimEnd());
}
