// Runs programs and commands of pages for real.

import { execFile, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { BlockResult } from "../programs/run-blocks.ts";
import { NODE_ARGUMENTS } from "../run-cli.ts";
import { ROOT } from "./markdown.ts";
import type { RunFolder } from "./run-folder.ts";

/** @returns what went wrong, by file; those that ended well are not there */
export async function runPrograms(
  files: readonly string[],
  { path, environment }: RunFolder,
): Promise<ReadonlyMap<string, string>> {
  const child = fork(join(ROOT, "test", "support", "programs", "run-blocks.ts"), files, {
    cwd: path,
    env: environment,
    execArgv: [...NODE_ARGUMENTS],
    silent: true,
  });
  const left = new Set(files);
  const failures = new Map<string, string>();
  let output = "";
  child.stderr?.on("data", (chunk) => (output += String(chunk)));
  child.stdout?.resume();
  child.on("message", ({ file, error }: BlockResult) => {
    left.delete(file);
    if (error !== undefined) failures.set(file, error);
  });
  const [exitCode, signal] = (await once(child, "exit")) as [number | null, string | null];
  const [next] = left;
  if (next !== undefined) failures.set(next, `ended with ${exitCode ?? signal} and did not finish:\n${output}`);
  return failures;
}

/** @returns what a shell says, where the commands fail */
export function runShell(commands: string, { path, environment }: RunFolder): Promise<string | undefined> {
  return new Promise((resolve) => {
    const options = { cwd: path, env: environment, maxBuffer: 1 << 26 };
    execFile("bash", ["-euo", "pipefail", "-c", commands], options, (error, _, stderr) =>
      resolve(error ? `${error.message}\n${stderr}` : undefined),
    );
  });
}
