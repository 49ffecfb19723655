// Processes for contenders, so that each one's memory, threads and libraries are its own.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Figure } from "../kit/samples.ts";
import type { BatchTimes, ChildAnswer, ChildRequest } from "./child.ts";
import type { OpenContender } from "./contender.ts";
import type { Workload } from "./workload.ts";

/**
 * A file of this folder as `bench/tsconfig.json` compiles it: compiling it in the measured process would count as that
 * process's time and memory.
 */
export function compiled(name: string): URL {
  const url = new URL(`../../node_modules/.cache/bench/engine/${name}.js`, import.meta.url);
  if (existsSync(url)) return url;
  throw new TypeError(`Expected ${fileURLToPath(url)} to exist; \`npm run build\` makes it`);
}

function startChild(): ChildProcess {
  // Standard output is for results; libraries write to theirs as they like.
  return fork(fileURLToPath(compiled("child")), [], { execArgv: [], stdio: ["ignore", "ignore", "inherit", "ipc"] });
}

/** Kills a process and waits for its end. */
export async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

interface Failure {
  readonly failure: string;
}

/** Sends a request and waits for its answer. @throws {Error} with the process's message, or with how it ended */
export async function askChild<Result extends object>(child: ChildProcess, message: object): Promise<Result> {
  const settled = new AbortController();
  const { signal } = settled;
  try {
    const answered = once(child, "message", { signal }) as Promise<[Result | Failure]>;
    const ended = once(child, "exit", { signal }) as Promise<[number | null, string | null]>;
    const first = Promise.race([answered, ended.then(([code, name]) => [failureOf(code, name)] as const)]);
    child.send(message);
    const [answer] = await first;
    if ("failure" in answer) throw new Error(answer.failure);
    return answer;
  } finally {
    settled.abort();
  }
}

function failureOf(code: number | null, signal: string | null): Failure {
  return { failure: `its process ended with ${signal ?? `code ${String(code)}`}` };
}

/** Measures a contender in a fresh process. @throws {Error} as `askChild` */
export async function measureInProcess(open: OpenContender, workload: Workload): Promise<readonly Figure[]> {
  const child = startChild();
  try {
    const request: ChildRequest = { kind: "measure", open, workload };
    return (await askChild<ChildAnswer>(child, request)).figures;
  } finally {
    await endChild(child);
  }
}

/** A contender that stays open in a process of its own until it is closed. */
export class OpenProcess {
  readonly #child = startChild();

  /**
   * @param sizes - of the batches to come
   * @throws {Error} with the process's message, when the contender cannot be opened
   */
  static async start(
    open: OpenContender,
    sizes: { readonly promptTokens: number; readonly newTokens: number },
  ): Promise<OpenProcess> {
    const started = new OpenProcess();
    try {
      await started.#ask({ kind: "open", open, ...sizes });
      return started;
    } catch (error) {
      await started.close();
      throw error;
    }
  }

  /** Runs one batch. */
  generate(prompts: readonly (readonly number[])[], newTokens: number): Promise<BatchTimes> {
    return this.#ask({ kind: "generate", prompts, newTokens });
  }

  close(): Promise<void> {
    return endChild(this.#child);
  }

  #ask(request: ChildRequest): Promise<ChildAnswer> {
    return askChild<ChildAnswer>(this.#child, request);
  }
}
