import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Answer, Job } from "./child.ts";

const CHILD = fileURLToPath(new URL(`child${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url));

/** Runs a job in a fresh process, so that its memory, threads and libraries are its own. */
export function runJob(job: Job): Promise<Answer> {
  return new Promise((resolve) => {
    // Standard output is for results; libraries write to theirs as they like.
    const child = fork(CHILD, [], { stdio: ["ignore", "ignore", "inherit", "ipc"] });
    child.once("message", (answer) => resolve(answer as Answer));
    child.once("error", (error) => resolve({ failure: error.message }));
    child.once("exit", (code, signal) => resolve({ failure: `its process ended with ${signal ?? `code ${code}`}` }));
    child.send(job);
  });
}
