// Runs a server in its own process, so that it does not share its event loop with the load.

import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { OpenOptions } from "@readme-moe/engine";
import type { AdmissionOptions } from "@readme-moe/express";
import { SOURCES } from "../sources.ts";
import { enginesOf, residentBytes } from "./memory.ts";

export interface ServerSetup {
  readonly path: string;
  readonly engine?: OpenOptions;
  readonly admission?: AdmissionOptions;
  /** Model of a server around another library. */
  readonly peer?: PeerSetup;
  /** Whether a failed engine is reopened. */
  readonly restarts?: boolean;
  /** Whether the server records which engine finished which sequence. */
  readonly records?: boolean;
}

interface PeerSetup {
  /** Entry file of the library, when it is not a dependency of this repository. */
  readonly library: string;
  /** Model in the library's format. */
  readonly model: string;
  readonly variant: string;
  readonly threads: number;
  /** Maximum of concurrent answers. */
  readonly places: number;
  /** Maximum tokens of an answer and its prompt. */
  readonly contextTokens: number;
}

/** Delay of the event loop in milliseconds, including the monitor's own period of 1 ms. */
export interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** Calls to a server process beside HTTP. */
export interface ServerCalls {
  readonly startLoop: () => void;
  readonly stopLoop: () => LoopDelay;
  /** Reopens the model and swaps it in; resolves when the previous engine is disposed. */
  readonly swap: () => void;
  /** Kills the engine's process. */
  readonly kill: () => void;
  /** Numbers of the engines that finished each sequence, by sequence id. */
  readonly finished: () => Readonly<Record<string, readonly number[]>>;
}

type CallName = keyof ServerCalls;

export interface Asked {
  readonly callId: number;
  readonly name: CallName;
}

export interface Answered {
  readonly callId: number;
  readonly result?: unknown;
  readonly failure?: string;
}

export interface Listening {
  readonly port: number;
}

export interface ServerProcess extends AsyncDisposable {
  readonly url: string;
  call<Name extends CallName>(name: Name): Promise<ReturnType<ServerCalls[Name]>>;
  /** Memory after garbage collection. `engine` is the sum over engines, and NaN without any. */
  memory(): Promise<{ readonly server: number; readonly engine: number; readonly numEngines: number }>;
}

// Applies to both processes, since a worker inherits the flags. A process that is starting ignores the signal.
const COLLECTS = ["--expose-gc", "--import=data:text/javascript,process.on('SIGURG',()=>globalThis.gc())"];
const COLLECTING_MS = 500;

export async function startServer(
  entry: "server.ts" | "peer-server.ts" | "llama-server.ts",
  setup: ServerSetup,
): Promise<ServerProcess> {
  const execArgv = [...SOURCES, ...COLLECTS];
  const child = fork(join(import.meta.dirname, entry), [JSON.stringify(setup)], { execArgv });
  const { port } = await firstMessage(child);
  const calls = new Map<number, (answer: Answered) => void>();
  child.on("message", (answer: Answered) => {
    calls.get(answer.callId)?.(answer);
    calls.delete(answer.callId);
  });
  const pid = child.pid as number;
  let numCalls = 0;
  return {
    url: `http://127.0.0.1:${port}`,
    async call(name) {
      const callId = ++numCalls;
      const { result, failure } = await new Promise<Answered>((resolve) => {
        calls.set(callId, resolve);
        child.send({ callId, name } satisfies Asked);
      });
      if (failure !== undefined) throw new Error(`${name}: ${failure}`);
      return result as never;
    },
    async memory() {
      // The second collection frees what the finalizers of the first one released.
      for (let time = 0; time < 2; time++) {
        for (const one of [pid, ...enginesOf(pid)]) process.kill(one, "SIGURG");
        await sleep(COLLECTING_MS);
      }
      const engines = enginesOf(pid);
      const engine = engines.reduce((sum, one) => sum + residentBytes(one), engines.length === 0 ? NaN : 0);
      return { server: residentBytes(pid), engine, numEngines: engines.length };
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, "exit");
      child.disconnect();
      await exited;
    },
  };
}

async function firstMessage(child: ChildProcess): Promise<Listening> {
  return new Promise((resolve, reject) => {
    child.once("message", (message) => resolve(message as Listening));
    child.once("exit", (code) => reject(new Error(`The server ended with code ${code} before it listened`)));
  });
}
