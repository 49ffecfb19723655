// Where a thread or a process that runs a model begins.

import { isMainThread, parentPort } from "node:worker_threads";
import { movable, type FromWorker, type ToWorker } from "../protocol.ts";
import { EngineServer } from "./engine-server.ts";

if (isMainThread) serveProcess();
else serveThread();

function serveThread(): void {
  const port = parentPort;
  if (!port) throw new Error("Expected a parent to serve");
  const server = new EngineServer((message: FromWorker) => port.postMessage(message, movable(message)));
  port.on("message", (message: ToWorker) => server.receive(message));
  server.onClosed(() => port.close());
}

function serveProcess(): void {
  const server = new EngineServer((message: FromWorker) => {
    // Sending fails when the parent has just gone; "disconnect" comes next.
    if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
  });
  process.on("message", (message: ToWorker) => server.receive(message));
  // The parent is gone, so nobody waits for anything.
  process.on("disconnect", () => process.exit());
  // A Ctrl-C in a terminal reaches the whole group; the parent decides what it means.
  process.on("SIGINT", () => undefined);
  server.onClosed(() => process.disconnect());
}
