// Child processes of the benchmark, which run from TypeScript sources like the benchmark itself.

import { type ChildProcess, fork } from "node:child_process";

/** Arguments of Node for a child process; a test's own process may have other ones. */
export const SOURCES = ["--conditions=@readme-moe/source", "--import", "tsx"] as const;

/** Forks a process that answers by messages. Its output goes to standard error: standard output is for results. */
export function forkSource(path: string, args: readonly string[] = []): ChildProcess {
  return fork(path, args, { execArgv: [...SOURCES], stdio: ["ignore", "ignore", "inherit", "ipc"] });
}
