// Another Node process with this repository's packages, where wanted with another view of the system than ours.

import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { COMMAND_LINE, NODE_ARGUMENTS } from "./run-cli.ts";

const ROOT = join(import.meta.dirname, "..", "..");

export interface Surroundings {
  /** A disk in memory, mounted on `folder` for this process and its children alone; it goes away with them. */
  readonly disk?: { readonly folder: string; readonly options: string } | undefined;
  readonly uid?: number | undefined;
  readonly env?: Readonly<Record<string, string>>;
}

export interface Outcome {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

const IN_NAMESPACE = ["--map-root-user", "--mount", "sh", "-c"] as const;

/** Whether this machine lets us mount; containers often do not. */
export const canMount: boolean =
  spawnSync("unshare", [...IN_NAMESPACE, 'mount -t tmpfs -o size=1m tmpfs "$0"', import.meta.dirname]).status === 0;

const NOBODY = 65534;

/** A user whom permissions stop: ourselves, or nobody where we are root. `undefined` where nobody cannot read our files. */
export const ordinaryUser: number | undefined =
  process.getuid?.() !== 0 ? process.getuid?.() : canReadSources(NOBODY) ? NOBODY : undefined;

function canReadSources(uid: number): boolean {
  return spawnSync(process.execPath, ["--import", "tsx", "-e", ""], { cwd: ROOT, uid }).status === 0;
}

/** Runs a program of the repository. */
export function startNode(args: readonly string[], around?: Surroundings): ChildProcess {
  return start([...NODE_ARGUMENTS, ...args], around);
}

/** Runs the command line. */
export function startCommand(args: readonly string[], around?: Surroundings): ChildProcess {
  return start([...COMMAND_LINE, ...args], around);
}

function start(args: readonly string[], { disk, uid, env }: Surroundings = {}): ChildProcess {
  const node = [process.execPath, ...args];
  const mount = `mount -t tmpfs -o "$1" tmpfs "$0" && shift && exec "$@"`;
  const [command = "", ...rest] = disk ? ["unshare", ...IN_NAMESPACE, mount, disk.folder, disk.options, ...node] : node;
  return spawn(command, rest, { cwd: ROOT, env: { ...process.env, ...env }, ...(uid === undefined ? {} : { uid }) });
}

export async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  let [stdout, stderr] = ["", ""];
  child.stdout?.on("data", (text: Buffer) => (stdout += text.toString()));
  child.stderr?.on("data", (text: Buffer) => (stderr += text.toString()));
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  return { code, signal, stdout, stderr };
}
