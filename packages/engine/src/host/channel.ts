// The way to a worker: a thread of this process, or a process of its own, behind one interface.

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { FromWorker, ToWorker } from "../protocol.ts";

export interface Channel {
  post(message: ToWorker): void;
  /** Ends the worker at once, whatever it does. */
  kill(): void;
  /** Resolves when the worker has ended, with why. */
  readonly exited: Promise<string>;
}

type OnMessage = (message: FromWorker) => void;

// Sources run as they are in development and tests, and built in a package.
const IS_SOURCE = import.meta.url.endsWith(".ts");
const ENTRY = new URL(`../worker/worker-main${IS_SOURCE ? ".ts" : ".js"}`, import.meta.url);

export function openChannel(isolation: "thread" | "process", onMessage: OnMessage): Channel {
  return isolation === "thread" ? openThread(onMessage) : openProcess(onMessage);
}

function openThread(onMessage: OnMessage): Channel {
  const worker = IS_SOURCE ? sourceThread() : new Worker(ENTRY, { name: "readme-moe" });
  worker.on("message", onMessage);
  const exited = new Promise<string>((resolve) => {
    worker.on("error", (error: Error) => resolve(error.message));
    worker.on("exit", (code) => resolve(`its thread ended with code ${code}`));
  });
  return {
    post: (message) => worker.postMessage(message, []),
    kill: () => void worker.terminate(),
    exited,
  };
}

/** Node 20 does not hand a loader of TypeScript down to threads, so the thread asks for it itself. */
function sourceThread(): Worker {
  const entry = JSON.stringify(ENTRY.href);
  const code = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); });`;
  return new Worker(code, { eval: true, name: "readme-moe" });
}

function openProcess(onMessage: OnMessage): Channel {
  // "advanced" keeps typed arrays, maps and sets, as messages between threads do.
  const child = fork(fileURLToPath(ENTRY), [], { serialization: "advanced" });
  child.on("message", (message) => onMessage(message as FromWorker));
  const exited = new Promise<string>((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("exit", (code, signal) =>
      resolve(signal ? `${signal} ended its process` : `its process ended with code ${code}`),
    );
  });
  return {
    post: (message) => {
      // Sending to a process that has just ended fails; `exited` tells everybody.
      if (child.connected) child.send(message, () => undefined);
    },
    kill: () => void child.kill("SIGKILL"),
    exited,
  };
}
