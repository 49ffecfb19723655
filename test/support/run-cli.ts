// The command line as a user calls it: another process, its output, its exit code.

import { execFile } from "node:child_process";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "..", "..");
/** The command line's program, and what Node needs to run it from its sources. */
export const MAIN = join(ROOT, "packages", "readme-moe", "src", "main.ts");

export const NODE_ARGUMENTS: readonly string[] = ["--conditions=@readme-moe/source", "--import", "tsx"];

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** @param input - lines on standard input */
export function runCli(args: readonly string[], input = ""): Promise<Outcome> {
  const node = [...NODE_ARGUMENTS, MAIN, ...args];
  return new Promise((resolve) => {
    const child = execFile(process.execPath, node, { cwd: ROOT, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : error ? -1 : 0, stdout, stderr });
    });
    child.stdin?.end(input);
  });
}
