// Requests a server's liveness every 20 ms on one connection, in its own process, which the fuzzer's work does not
// delay.

import { Agent, get } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

/** Results since the last report. */
export interface ProbeReport {
  readonly timesMs: readonly number[];
  readonly failures: readonly string[];
}

const EVERY_MS = 20;
const port = Number(process.argv[2]);
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
let timesMs: number[] = [];
let failures: string[] = [];

process.on("message", () => {
  process.send?.({ timesMs, failures } satisfies ProbeReport);
  [timesMs, failures] = [[], []];
});

function ask(): Promise<number | string> {
  return new Promise((resolve) => {
    const asked = get({ agent, port, host: "127.0.0.1", path: "/livez" }, (response) => {
      response.resume();
      response.once("end", () => resolve(response.statusCode ?? 0));
      response.once("error", ({ message }) => resolve(message));
    });
    asked.once("error", ({ message }) => resolve(message));
  });
}

while (process.connected) {
  const startMs = performance.now();
  // oxlint-disable-next-line no-await-in-loop -- one at a time
  const status = await ask();
  if (status === 200) timesMs.push(performance.now() - startMs);
  else failures.push(String(status));
  // oxlint-disable-next-line no-await-in-loop -- likewise
  await sleep(EVERY_MS);
}
