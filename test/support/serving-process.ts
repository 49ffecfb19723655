// `readme-moe serve` as operators run it: a process, its log, its probes, its worker, and its limits.

import { execFile, spawn, spawnSync, type ChildProcess } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { onTestFinished } from "vitest";
import { outcomeOf, type Outcome } from "./node-process.ts";
import { scrape, type Scrape } from "./prometheus.ts";
import { COMMAND_LINE } from "./run-cli.ts";

const ROOT = join(import.meta.dirname, "..", "..");

/** A line of `--json`. */
interface LogEntry {
  readonly event: string;
  readonly [field: string]: unknown;
}

/** Status codes of the three routes of health. */
export interface Probes {
  readonly health: number;
  readonly readyz: number;
  readonly livez: number;
}

export interface ServingProcess {
  readonly url: string;
  readonly child: ChildProcess;
  readonly entries: readonly LogEntry[];
  readonly outcome: Promise<Outcome>;
  /** The first entry that fits, of those that were and of those that come. */
  readonly logged: (event: string, fits?: (entry: LogEntry) => boolean) => Promise<LogEntry>;
  readonly probes: () => Promise<Probes>;
  readonly metrics: () => Promise<Scrape>;
  readonly complete: (body?: object) => Promise<Response>;
  /** Process id of the engine's worker. */
  readonly workerPid: () => Promise<number>;
}

export interface ServeSetup {
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** For `ulimit` of a shell, such as `-f 8`. */
  readonly limits?: string;
}

/** Whether limits of a running process can be changed here. */
export const canLimit: boolean = spawnSync("prlimit", ["--version"]).status === 0;

/** Starts a server on a free port with its log as JSON; does not wait for the model. */
async function startServing(model: string, { args = [], env, limits }: ServeSetup = {}): Promise<ServingProcess> {
  // Runs share the cache folder, and would find the prompts of those before.
  const disk = args.includes("--prefix-disk") ? [] : ["--prefix-disk", "0"];
  const flags = ["serve", model, "--port", "0", "--threads", "1", "--json", ...disk, ...args];
  const node = [process.execPath, ...COMMAND_LINE, ...flags];
  const [command = "", ...rest] =
    limits === undefined ? node : ["sh", "-c", `ulimit ${limits}; exec "$@"`, "sh", ...node];
  const child = spawn(command, rest, { cwd: ROOT, env: { ...process.env, ...env } });
  const outcome = outcomeOf(child);
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await outcome;
  });
  const entries: LogEntry[] = [];
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const look of waiting) look();
    waiting.clear();
  };
  if (!child.stdout) throw new Error("Expected standard output");
  createInterface({ input: child.stdout }).on("line", (line) => {
    entries.push(JSON.parse(line) as LogEntry);
    wake();
  });
  let isOver = false;
  child.once("close", () => {
    isOver = true;
    wake();
  });
  const logged: ServingProcess["logged"] = async (event, fits = () => true) => {
    for (let seen = 0; ;) {
      for (; seen < entries.length; seen++) {
        const entry = entries[seen] as LogEntry;
        if (entry.event === event && fits(entry)) return entry;
      }
      if (isOver)
        throw new Error(`Expected ${event} in the log, got ${JSON.stringify(entries)} ${(await outcome).stderr}`);
      await new Promise<void>((resolve) => waiting.add(resolve));
    }
  };
  const url = (await logged("server:listening"))["url"] as string;
  const statusOf = async (path: string): Promise<number> => (await fetch(`${url}/${path}`)).status;
  return {
    url,
    child,
    entries,
    outcome,
    logged,
    probes: async () => ({
      health: await statusOf("health"),
      readyz: await statusOf("readyz"),
      livez: await statusOf("livez"),
    }),
    metrics: () => scrape(url),
    complete: (body = {}) =>
      fetch(`${url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ prompt: "one two", max_tokens: 3, ignore_eos: true, ...body }),
      }),
    workerPid: async () => {
      const { stdout } = await promisify(execFile)("ps", ["-o", "pid=", "--ppid", `${child.pid}`]);
      const [pid] = stdout
        .trim()
        .split(/\s+/)
        .map(Number)
        .filter((one) => one > 0);
      if (pid === undefined) throw new Error("Expected a worker");
      return pid;
    },
  };
}

/** The same once the model is open. */
export async function startReady(model: string, setup?: ServeSetup): Promise<ServingProcess> {
  const serving = await startServing(model, setup);
  while ((await fetch(`${serving.url}/health`)).status !== 200);
  return serving;
}

/** Calls until it gives something; the test's time limit is the patience. */
export async function until<Result>(ask: () => Promise<Result | undefined | false>): Promise<Result> {
  for (;;) {
    const result = await ask();
    if (result !== undefined && result !== false) return result;
  }
}

/** The packed weights in a cache folder. */
export async function packedFiles(cacheFolder: string): Promise<readonly string[]> {
  const names = await readdir(cacheFolder, { recursive: true });
  return names.filter((name) => name.endsWith("weights.bin")).map((name) => join(cacheFolder, name));
}

/** The only one of a kernel, of a server with `--expert`, which has no router. */
export async function decoderFile(cacheFolder: string): Promise<string> {
  const files = await packedFiles(join(cacheFolder, "kernels"));
  if (files.length !== 1 || files[0] === undefined) throw new Error(`Expected one file, got ${files.length}`);
  return files[0];
}

/** Changes a limit of a running process, such as `--nofile=20`. */
export async function limitProcess(pid: number, limit: string): Promise<void> {
  await promisify(execFile)("prlimit", ["--pid", `${pid}`, limit]);
}
