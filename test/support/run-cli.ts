// The command line as a user calls it: another process, its output, its exit code.

import { execFile } from "node:child_process";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "..", "..");
const PACKAGE = join(ROOT, "packages", "readme-moe");

/** Whether processes take the packages as they were just built (`npm test`): they start in half the time, and run what is published. */
const IS_BUILT = process.env["README_MOE_TEST_BUILT"] === "1";

/** What Node needs for packages to be found: nothing for those that are built, else their sources. */
export const NODE_FLAGS: readonly string[] = IS_BUILT ? [] : ["--conditions=@readme-moe/source", "--import", "tsx"];

/** What comes before a program of TypeScript. */
export const NODE_ARGUMENTS: readonly string[] = IS_BUILT
  ? [join(import.meta.dirname, "programs", "launch.js")]
  : NODE_FLAGS;

/** What comes before the command line's arguments. */
export const COMMAND_LINE: readonly string[] = IS_BUILT
  ? [join(PACKAGE, "dist", "main.js")]
  : [...NODE_FLAGS, join(PACKAGE, "src", "main.ts")];

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
