import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { SOURCES } from "./sources.ts";

/** Runs a command of `readme-moe` with `--json` in its own process, and parses its output. */
export async function cliJson<Result>(args: readonly string[]): Promise<Result> {
  const main = fileURLToPath(new URL("../packages/readme-moe/src/main.ts", import.meta.url));
  const all = [...SOURCES, main, ...args, "--json"];
  const { stdout } = await promisify(execFile)(process.execPath, all, { maxBuffer: 64 << 20 });
  return JSON.parse(stdout) as Result;
}
