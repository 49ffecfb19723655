import { fork } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Figure } from "../kit/sample.ts";
import type { Answer, Job } from "./child.ts";

/**
 * A file of this folder as it is packaged: what a program loads and holds is measured, and compiling it on the way would be in
 * that. The same from the sources and from what is built of them.
 */
export function packaged(name: string): URL {
  const url = new URL(`../../../dist/bench/engine/${name}.js`, import.meta.url);
  if (existsSync(url)) return url;
  throw new TypeError(`Expected ${fileURLToPath(url)} to be there; \`npm run build\` makes it`);
}

/**
 * Runs a job in a fresh process, so that its memory, threads and libraries are its own.
 * @throws {Error} with what the process says, where it can not be done
 */
export async function runJob(job: Job): Promise<readonly Figure[]> {
  const answer = await new Promise<Answer>((resolve) => {
    // Standard output is for results; libraries write to theirs as they like.
    const child = fork(fileURLToPath(packaged("child")), [], {
      execArgv: [],
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    child.once("message", (message) => resolve(message as Answer));
    child.once("error", (error) => resolve({ failure: error.message }));
    child.once("exit", (code, signal) => resolve({ failure: `its process ended with ${signal ?? `code ${code}`}` }));
    child.send(job);
  });
  if ("failure" in answer) throw new Error(answer.failure);
  return answer.figures;
}
