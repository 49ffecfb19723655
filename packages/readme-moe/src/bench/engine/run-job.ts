import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Figure } from "../kit/sample.ts";
import type { Job } from "./child.ts";

/**
 * A file of this folder as it is packaged: what a program loads and holds is measured, and compiling it on the way would be in
 * that. The same from the sources and from what is built of them.
 */
export function packaged(name: string): URL {
  const url = new URL(`../../../dist/bench/engine/${name}.js`, import.meta.url);
  if (existsSync(url)) return url;
  throw new TypeError(`Expected ${fileURLToPath(url)} to be there; \`npm run build\` makes it`);
}

/** A process of its own for a contender. */
export function startChild(name: string): ChildProcess {
  // Standard output is for results; libraries write to theirs as they like.
  return fork(fileURLToPath(packaged(name)), [], { execArgv: [], stdio: ["ignore", "ignore", "inherit", "ipc"] });
}

/** At once, and awaited. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

interface Failure {
  readonly failure: string;
}

/** @throws {Error} with what the process says, where it can not be done, or how it ended */
export async function ask<Result extends object>(child: ChildProcess, message: object): Promise<Result> {
  const settled = new AbortController();
  const { signal } = settled;
  try {
    const answered = once(child, "message", { signal }) as Promise<[Result | Failure]>;
    const ended = once(child, "exit", { signal }) as Promise<[number | null, string | null]>;
    const first = Promise.race([answered, ended.then(([code, name]) => [failureOf(code, name)] as const)]);
    child.send(message);
    const [answer] = await first;
    const { failure } = answer as Partial<Failure>;
    if (failure !== undefined) throw new Error(failure);
    return answer as Result;
  } finally {
    settled.abort();
  }
}

function failureOf(code: number | null, signal: string | null): Failure {
  return { failure: `its process ended with ${signal ?? `code ${String(code)}`}` };
}

/** Runs a job in a fresh process, so that its memory, threads and libraries are its own. @throws {Error} as `ask` */
export async function runJob(job: Job): Promise<readonly Figure[]> {
  return (await ask<{ readonly figures: readonly Figure[] }>(startChild("child"), job)).figures;
}
