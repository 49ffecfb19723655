// The command line as a user calls it: another process, its output, its exit code.

import { execFile } from "node:child_process";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "..", "..");
const PACKAGE = join(ROOT, "packages", "readme-moe");

/** The command line's program as a source, for processes with a view of the system of their own. */
export const MAIN = join(PACKAGE, "src", "main.ts");

/** What Node needs to run programs from their sources. */
export const NODE_ARGUMENTS: readonly string[] = ["--conditions=@readme-moe/source", "--import", "tsx"];

/**
 * What Node needs to run the command line: as it was just built (`npm test`, which takes half as long for each command and runs what
 * is published), else from its sources.
 */
export const COMMAND_LINE: readonly string[] =
  process.env["README_MOE_TEST_BUILT"] === "1" ? [join(PACKAGE, "dist", "main.js")] : [...NODE_ARGUMENTS, MAIN];

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** @param input - lines on standard input */
export function runCli(args: readonly string[], input = ""): Promise<Outcome> {
  const node = [...COMMAND_LINE, ...args];
  return new Promise((resolve) => {
    const child = execFile(process.execPath, node, { cwd: ROOT, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : error ? -1 : 0, stdout, stderr });
    });
    child.stdin?.end(input);
  });
}
