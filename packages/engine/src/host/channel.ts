// Channel to a worker: a thread of this process, or a process of its own, behind one interface.

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { movable, type FromWorker, type ToWorker } from "../protocol.ts";

export interface Channel {
  post(message: ToWorker): void;
  /**
   * Ends the worker. A process ends at once, a thread after its current step; no message comes after this.
   * @param isHung - also ends a thread within JavaScript; one within native code ends when that returns, or never
   */
  kill(options?: { readonly isHung: boolean }): void;
  /** Sets whether the worker keeps the program running by itself. It does at first. */
  hold(isHeld: boolean): void;
  /** Resolves with the reason when the worker has ended or was killed. */
  readonly exited: Promise<string>;
}

type OnMessage = (message: FromWorker) => void;

// Development runs the sources, a published package the one file that its build makes of the worker's modules.
const IS_SOURCE = import.meta.url.endsWith(".ts");
const ENTRY = new URL(IS_SOURCE ? "../worker/worker-main.ts" : "../worker-main.js", import.meta.url);

// Threads inherit the program's flags. `--input-type` describes a program without a file, and would stop a thread.
const THREAD_FLAGS = process.execArgv.some((flag) => flag.startsWith("--input-type")) ? { execArgv: [] } : {};

const PROGRAM_TEXT = new Set(["-e", "--eval", "-p", "--print", "-pe"]);
// Flags that state or watch the program, or that take a port or a file of their own.
const OF_THE_PROGRAM = /^--(?:eval=|print=|input-type|inspect|watch|test|cpu-prof|heap-prof)/;

/** Flags that limit a worker process's memory: `--expose-gc` allows a collection after the model was opened. */
const MEMORY_FLAGS: readonly string[] = ["--expose-gc", "--max-semi-space-size=4"];

/** glibc learns to keep freed blocks of up to 64 MB unless the threshold is set; opening a model frees many of them. */
const MEMORY_ENVIRONMENT = { MALLOC_TRIM_THRESHOLD_: "131072" };

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
    // `terminate` within native code can abort the whole process, so the thread is asked to end. A thread that never
    // returns from its step is left behind, unless it is known to hang.
    kill: ({ isHung } = { isHung: false }) => {
      worker.off("message", onMessage);
      worker.postMessage({ type: "end" } satisfies ToWorker, []);
      worker.unref();
      killed.abort();
      if (isHung) void worker.terminate();
    },
    hold: (isHeld) => {
      if (isHeld) worker.ref();
      else worker.unref();
    },
    exited,
  };
}

/** Starts a thread that registers the TypeScript loader itself: Node 20 does not hand loaders down to threads. */
function sourceThread(): Worker {
  const entry = JSON.stringify(ENTRY.href);
  const code = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); });`;
  return new Worker(code, { eval: true, name: "readme-moe" });
}

function openProcess(onMessage: OnMessage): Channel {
  const child = fork(fileURLToPath(ENTRY), [], {
    // "advanced" keeps typed arrays, maps and sets, as messages between threads do.
    serialization: "advanced",
    // The program's own flags and environment come last, so that they win.
    execArgv: [...MEMORY_FLAGS, ...workerFlags(process.execArgv)],
    env: { ...MEMORY_ENVIRONMENT, ...process.env },
  });
  child.on("message", (message) => onMessage(message as FromWorker));
  const exited = new Promise<string>((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("exit", (code, signal) =>
      resolve(signal ? `${signal} ended its process` : `its process ended with code ${code}`),
    );
  });
  return {
    post: (message) => {
      // Sending to a process that has just ended fails; `exited` reports the end.
      if (child.connected) child.send(message, () => undefined);
    },
    kill: () => void child.kill("SIGKILL"),
    hold: (isHeld) => {
      // The channel of Bun's child processes cannot be held.
      for (const handle of [child, child.channel]) {
        if (isHeld) handle?.ref?.();
        else handle?.unref?.();
      }
    },
    exited,
  };
}

/** Selects the flags that also apply to workers: loaders, conditions and memory limits. */
function workerFlags(execArgv: readonly string[]): string[] {
  return execArgv.filter(
    (flag, index) =>
      !PROGRAM_TEXT.has(flag) && !PROGRAM_TEXT.has(execArgv[index - 1] ?? "") && !OF_THE_PROGRAM.test(flag),
  );
}
