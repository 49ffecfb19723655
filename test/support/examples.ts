// Examples as users run them: another process, and what it prints.

import { type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { outcomeOf, startNode, type Outcome } from "./node-process.ts";

export const EXAMPLES: string = join(import.meta.dirname, "..", "..", "examples");

/** `npm run example <name> -- <args>`, to its end. */
export function runExample(name: string, ...args: readonly string[]): Promise<Outcome> {
  return outcomeOf(startNode([join(EXAMPLES, "run.ts"), name, ...args]));
}

export interface RunningProgram {
  readonly child: ChildProcess;
  /** Everything that it has printed so far. */
  readonly output: () => string;
  /** Resolves with what `pattern` finds in what is printed; rejects when the program ends before. */
  readonly printed: (pattern: RegExp) => Promise<RegExpExecArray>;
  /** Sends a signal, and waits for the end. @returns the exit code, or the signal that ended it */
  readonly stop: (signal: NodeJS.Signals) => Promise<number | string | null>;
}

/** Starts a program that goes on until it is told to stop; it is killed when the test ends. */
export function startProgram(args: readonly string[], env: Readonly<Record<string, string>> = {}): RunningProgram {
  const child = startNode(args, { env });
  const ended = once(child, "close") as Promise<[number | null, NodeJS.Signals | null]>;
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  let text = "";
  const waiting = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (data: Buffer) => {
      text += data.toString();
      for (const look of waiting) look();
    });
  }
  return {
    child,
    output: () => text,
    printed: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const found = pattern.exec(text);
          if (!found) return;
          waiting.delete(look);
          resolve(found);
        };
        waiting.add(look);
        look();
        void ended.then(() => reject(new Error(`Ended before it printed ${pattern}:\n${text}`)));
      }),
    async stop(signal) {
      child.kill(signal);
      const [code, by] = await ended;
      return by ?? code;
    },
  };
}
