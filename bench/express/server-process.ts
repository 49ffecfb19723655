// A server in a process of its own, so that the load, which is made here, does not share its event loop.

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
  /** What a server around another library serves. */
  readonly peer?: PeerSetup;
  /** Opens an engine again that has failed. */
  readonly restarts?: boolean;
  /** Remembers which engine finished which sequence. */
  readonly records?: boolean;
}

interface PeerSetup {
  /** The library's entry, where it is none of this repository's dependencies. */
  readonly library: string;
  /** The model as that library reads it. */
  readonly model: string;
  readonly variant: string;
  readonly threads: number;
  /** Answers at once. */
  readonly places: number;
  /** Of one answer and its prompt, at most. */
  readonly contextTokens: number;
}

/** How late the event loop is, milliseconds; the monitor's own period of 1 ms is in it. */
export interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** What a server can be asked beside HTTP. */
export interface ServerCalls {
  readonly startLoop: () => void;
  readonly stopLoop: () => LoopDelay;
  /** Opens the model once more and serves it from then on; resolved when the engine of before is gone. */
  readonly swap: () => void;
  /** Ends the engine's process, whatever it does. */
  readonly kill: () => void;
  /** Engines, by their numbers, that finished a sequence, by its id. */
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
  /** After garbage was collected. `engine` is the sum where there are several, and NaN where there is none. */
  memory(): Promise<{ readonly server: number; readonly engine: number; readonly numEngines: number }>;
}

// Both processes: a worker gets the flags of its program. The signal does nothing to one that is just being started.
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
      // The second time frees what the first one's finalizers let go.
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
