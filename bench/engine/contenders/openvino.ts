// OpenVINO GenAI with continuous batching, in a Python process with openvino-process.py.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import type { Contender, OpenContender } from "../contender.ts";

type Answer = { readonly result: unknown } | { readonly failure: string };

/** Sends one request at a time to a Python process that answers with lines of JSON. */
class PythonProcess {
  readonly pid: number | undefined;
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly #ended: Promise<string>;

  constructor(python: string, script: string) {
    // Libraries may write other lines to standard output.
    const child = spawn(python, [script], { stdio: ["pipe", "ignore", "inherit", "pipe"] });
    this.pid = child.pid;
    this.#child = child;
    // Writing to an ended process is reported by its exit.
    child.stdin?.on("error", () => undefined);
    this.#answers = createInterface({ input: child.stdio[3] as Readable })[Symbol.asyncIterator]();
    this.#ended = once(child, "exit").then(
      ([code, signal]) => `Python ended with ${String(signal ?? `code ${String(code)}`)}`,
      (error: unknown) => String(error),
    );
  }

  /** @throws {Error} with Python's message, or its exit code */
  async ask(request: { readonly kind: string; readonly [name: string]: unknown }): Promise<unknown> {
    this.#child.stdin?.write(`${JSON.stringify(request)}\n`);
    const { done, value } = await this.#answers.next();
    if (done) throw new Error(await this.#ended);
    const answer = JSON.parse(value) as Answer;
    if ("failure" in answer) throw new Error(answer.failure);
    return answer.result;
  }

  async end(): Promise<void> {
    this.#child.stdin?.end();
    await this.#ended;
  }
}

export async function open({ spec, threads, maxSequences }: OpenContender): Promise<Contender> {
  const { python = "", script = "", model = "" } = spec.files;
  const child = new PythonProcess(python, script);
  await child.ask({ kind: "open", model, threads, maxSequences });
  return {
    processId: child.pid,
    generate: async (prompts, newTokens) =>
      (await child.ask({ kind: "generate", prompts, newTokens })) as readonly number[],
    logProbabilities: async (sequences) =>
      (await child.ask({ kind: "logProbabilities", sequences })) as readonly number[],
    dispose: () => child.end(),
  };
}
