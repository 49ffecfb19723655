import type { ChildProcess } from "node:child_process";
import { ask, end, startChild } from "./run-job.ts";
import type { OpenContender } from "./contender.ts";
import type { TurnRequest } from "./turn-child.ts";

/** A contender that is open in a process of its own until it is closed. */
export class OpenProcess {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  /**
   * @param sizes - of the batches to come
   * @throws {Error} with what the process says, where it can not be opened
   */
  static async start(
    open: OpenContender,
    sizes: { readonly promptTokens: number; readonly newTokens: number },
  ): Promise<OpenProcess> {
    const child = startChild("turn-child");
    const started = new OpenProcess(child);
    try {
      await started.#ask({ kind: "open", open, ...sizes });
      return started;
    } catch (error) {
      await started.close();
      throw error;
    }
  }

  /** @returns how long it took, in milliseconds */
  generate(prompts: readonly (readonly number[])[], newTokens: number): Promise<number> {
    return this.#ask({ kind: "generate", prompts, newTokens });
  }

  close(): Promise<void> {
    return end(this.#child);
  }

  async #ask(request: TurnRequest): Promise<number> {
    return (await ask<{ readonly elapsedMs: number }>(this.#child, request)).elapsedMs;
  }
}
