// Server's side of the benchmark: listens, and answers calls of the parent process.

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Express } from "express";
import type { Answered, Asked, Listening, LoopDelay, ServerCalls } from "./server-process.ts";

type Handlers = {
  readonly [Name in keyof ServerCalls]?: () => ReturnType<ServerCalls[Name]> | Promise<ReturnType<ServerCalls[Name]>>;
};

const NS_PER_MS = 1e6;

export function serveBench(app: Express, handlers: Handlers = {}): void {
  const all: Handlers = { ...loopCalls(), ...handlers };
  const answer = async ({ callId, name }: Asked): Promise<Answered> => {
    try {
      return { callId, result: await all[name]?.() };
    } catch (error) {
      return { callId, failure: error instanceof Error ? error.message : String(error) };
    }
  };
  process.on("message", (asked: Asked) => void answer(asked).then((answered) => process.send?.(answered)));
  // The parent is gone, and nothing else would end this process.
  process.once("disconnect", () => process.exit());
  const server = createServer(app);
  // Clients pause longer than Node's keep-alive timeout.
  server.keepAliveTimeout = 120_000;
  server.listen(0, "127.0.0.1", () => {
    process.send?.({ port: (server.address() as AddressInfo).port } satisfies Listening);
  });
}

function loopCalls(): Pick<Required<Handlers>, "startLoop" | "stopLoop"> {
  const monitor = monitorEventLoopDelay({ resolution: 1 });
  return {
    startLoop: () => {
      monitor.reset();
      monitor.enable();
    },
    stopLoop: (): LoopDelay => {
      monitor.disable();
      const ms = (percentile: number): number => monitor.percentile(percentile) / NS_PER_MS;
      return { p50: ms(50), p99: ms(99), max: monitor.max / NS_PER_MS };
    },
  };
}
