// The way to a worker: a thread of this process, or a process of its own, behind one interface.

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { movable, type FromWorker, type ToWorker } from "../protocol.ts";
import { MEMORY_FLAGS, workerEnvironment, workerFlags } from "./worker-flags.ts";

export interface Channel {
  post(message: ToWorker): void;
  /** Nothing comes from the worker after this. A process ends at once, a thread as soon as it comes back from a step. */
  kill(): void;
  /** Whether the worker keeps the program running when nothing else does. It does at first. */
  hold(isHeld: boolean): void;
  /** Resolves when the worker has ended or was killed, with why. */
  readonly exited: Promise<string>;
}

type OnMessage = (message: FromWorker) => void;

// Sources run as they are in development and tests, and built in a package.
const IS_SOURCE = import.meta.url.endsWith(".ts");
const ENTRY = new URL(`../worker/worker-main${IS_SOURCE ? ".ts" : ".js"}`, import.meta.url);

// Threads get the program's flags; this one stops them, since it is about the text of a program that is no file.
const THREAD_FLAGS = process.execArgv.some((flag) => flag.startsWith("--input-type")) ? { execArgv: [] } : {};

export function openChannel(isolation: "thread" | "process", onMessage: OnMessage): Channel {
  return isolation === "thread" ? openThread(onMessage) : openProcess(onMessage);
}

function openThread(onMessage: OnMessage): Channel {
  const worker = IS_SOURCE ? sourceThread() : new Worker(ENTRY, { ...THREAD_FLAGS, name: "readme-moe" });
  worker.on("message", onMessage);
  const killed = new AbortController();
  const exited = new Promise<string>((resolve) => {
    worker.on("error", (error: Error) => resolve(error.message));
    worker.on("exit", (code) => resolve(`its thread ended with code ${code}`));
    killed.signal.addEventListener("abort", () => resolve("its thread was ended"));
  });
  return {
    post: (message) => worker.postMessage(message, movable(message)),
    // A thread is asked to end: `terminate` in the middle of native code can abort the whole process. One that never comes back is
    // left behind.
    kill: () => {
      worker.off("message", onMessage);
      worker.postMessage({ type: "end" } satisfies ToWorker, []);
      worker.unref();
      killed.abort();
    },
    hold: (isHeld) => {
      if (isHeld) worker.ref();
      else worker.unref();
    },
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
  // The program's own flags come last, so that they win.
  const execArgv = [...MEMORY_FLAGS, ...workerFlags(process.execArgv)];
  const env = workerEnvironment(process.env);
  const child = fork(fileURLToPath(ENTRY), [], { serialization: "advanced", execArgv, env });
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
    hold: (isHeld) => {
      for (const handle of [child, child.channel]) {
        if (isHeld) handle?.ref();
        else handle?.unref();
      }
    },
    exited,
  };
}
