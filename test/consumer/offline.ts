// Programs of the folder that the packages are installed in, on a machine that reaches no other.

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { inject } from "vitest";
import { outcomeOf, type Outcome } from "../../tools/packages/run.ts";

export const FOLDER: string = inject("consumer");
/** Where the command line is installed without the lab. */
export const RUNTIME_FOLDER: string = inject("runtime");
const REACHED = join(FOLDER, "reached.txt");
/** Nothing that tests leave behind runs for longer. */
const TIMEOUT_MS = 580_000;
const CLOSED = "http://127.0.0.1:9";
const GUARD = pathToFileURL(join(import.meta.dirname, "programs", "only-loopback.mjs")).href;

/** A user who has nothing in any cache, and no way out. */
export const OFFLINE: Readonly<Record<string, string>> = {
  HOME: join(FOLDER, "home"),
  USERPROFILE: join(FOLDER, "home"),
  LOCALAPPDATA: join(FOLDER, "home", "local"),
  XDG_CACHE_HOME: join(FOLDER, "home", "cache"),
  README_MOE_CACHE: join(FOLDER, "cache"),
  HTTP_PROXY: CLOSED,
  HTTPS_PROXY: CLOSED,
  http_proxy: CLOSED,
  https_proxy: CLOSED,
  npm_config_registry: CLOSED,
  HF_ENDPOINT: CLOSED,
  NODE_OPTIONS: `--import=${GUARD}`,
  READ_ME_REACHED: REACHED,
};

/** Runs Node in the folder, or in `cwd`. @param env - more of it */
export function node(
  args: readonly string[],
  cwd: string = FOLDER,
  env: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  return outcomeOf(process.execPath, args, { cwd, env: { ...OFFLINE, ...env }, timeoutMs: TIMEOUT_MS });
}

export function startNode(args: readonly string[], cwd: string): ChildProcess {
  return spawn(process.execPath, args, { cwd, env: { ...process.env, ...OFFLINE }, stdio: ["ignore", "pipe", "pipe"] });
}

export function npx(args: readonly string[], cwd: string = FOLDER): Promise<Outcome> {
  return outcomeOf("npx", ["--no-install", ...args], { cwd, env: OFFLINE, timeoutMs: TIMEOUT_MS });
}

/** Machines that programs have tried to reach so far. */
export function reached(): readonly string[] {
  return existsSync(REACHED) ? readFileSync(REACHED, "utf8").trim().split("\n") : [];
}
