// Processes of the bench, which read the sources as it does.

import { type ChildProcess, fork } from "node:child_process";

/** What Node needs to run a process of the bench, which is run so itself; a test's process may be run otherwise. */
export const SOURCES = ["--conditions=@readme-moe/source", "--import", "tsx"] as const;

/** A process that answers by messages. Standard output is for results; libraries write to theirs as they like. */
export function forkSource(path: string, args: readonly string[] = []): ChildProcess {
  return fork(path, args, { execArgv: [...SOURCES], stdio: ["ignore", "ignore", "inherit", "ipc"] });
}
