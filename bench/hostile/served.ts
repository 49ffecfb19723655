// Starts `readme-moe serve` with a limited heap, and reads its memory from outside.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

export interface Served extends AsyncDisposable {
  readonly port: number;
  readonly url: string;
  readonly isAlive: () => boolean;
  /** Resident bytes of the server's and the engine's processes. */
  readonly memory: () => Promise<number>;
  /** Ids of the server's and the engine's processes. */
  readonly processes: () => Promise<readonly number[]>;
}

/** A folder for a server's files and batches. */
export interface BatchesFolder extends AsyncDisposable {
  readonly path: string;
  readonly flags: readonly string[];
}

/** Makes a folder that is removed after the server that is started later has ended. */
export async function batchesFolder(): Promise<BatchesFolder> {
  const path = await mkdtemp(join(tmpdir(), "readme-moe-batches-"));
  const remove = (): Promise<void> => rm(path, { recursive: true, force: true });
  return { path, flags: ["--batches", path], [Symbol.asyncDispose]: remove };
}

const MAIN = join(import.meta.dirname, "../../packages/readme-moe/dist/main.js");

export async function serve(model: string, heapMb: number, flags: readonly string[]): Promise<Served> {
  const child = spawn(
    process.execPath,
    [`--max-old-space-size=${heapMb}`, MAIN, "serve", model, "--port", "0", ...flags],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  const port = Number(/:(\d+)\//.exec(line)?.[1]);
  const url = `http://127.0.0.1:${port}`;
  while ((await fetch(`${url}/readyz`)).status !== 200) await sleep(50);
  return {
    port,
    url,
    isAlive: () => child.exitCode === null && child.signalCode === null,
    memory: () => residentBytes(child),
    processes: () => processesOf(child),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    },
  };
}

async function processesOf({ pid = 0 }: ChildProcess): Promise<readonly number[]> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8").catch(() => "");
  return [
    pid,
    ...children
      .split(" ")
      .filter((text) => text.trim() !== "")
      .map(Number),
  ];
}

async function residentBytes(child: ChildProcess): Promise<number> {
  const pids = await processesOf(child);
  const sizes = await Promise.all(
    pids.map(async (one) => {
      const status = await readFile(`/proc/${one}/status`, "utf8").catch(() => "");
      return Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
    }),
  );
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}
