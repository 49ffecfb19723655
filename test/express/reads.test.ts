// Tests that answers which are read count in admission and in rate limits, and that slow readers are disconnected.

import { EventEmitter } from "node:events";
import { Admission } from "@readme-moe/express";
import { expect, onTestFinished, test } from "vitest";
import { sendBytes } from "../../packages/express/src/http/reply.ts";
import type { Reply } from "../../packages/express/src/http/request.ts";
import { manualTimers } from "../support/manual-timers.ts";
import { openSocket } from "../support/raw-http.ts";
import { type Ids, serveTenants, type Tenants } from "../support/tenants.ts";
import { countTurns } from "../support/turns.ts";

/** Routes whose answers are small, and that probes ask. */
const UNCOUNTED = ["/health", "/readyz", "/livez", "/version"];

/** Paths of all routes that are read, with ids of what exists. */
function readPaths({ routes, ids }: Tenants): readonly string[] {
  const idOf = (path: string): string => {
    const kind = /^\/v1\/(\w+?)s\//.exec(path)?.[1];
    return kind === "model" ? "scripted" : (ids[kind as keyof Ids] ?? "");
  };
  const read = routes.flatMap(({ path, methods }) => (methods.get ? [path] : []));
  return read.map((path) => path.replace(/[:*]id/, idOf(path)));
}

test("every route that is read takes room in admission, except those of probes", async () => {
  const admission = new Admission({ maxRequests: 8, maxClientShare: 1 });
  const tenants = await serveTenants({ admission });
  const paths = readPaths(tenants);
  expect(paths).toHaveLength(18);
  const statuses = async (): Promise<readonly (readonly [string, number])[]> => {
    const all: (readonly [string, number])[] = [];
    for (const path of paths) {
      const response = await tenants.ask("ann", path);
      await response.text();
      all.push([path, response.status]);
    }
    return all;
  };
  expect(await statuses()).toStrictEqual(paths.map((path) => [path, 200]));
  expect(admission.stats.sending).toStrictEqual({ requests: 0, bytes: 0 });
  const releases = Array.from({ length: 8 }, (_, index) =>
    admission.send({ key: undefined, client: `${index}`, bytes: 0 }),
  );
  expect(await statuses()).toStrictEqual(paths.map((path) => [path, UNCOUNTED.includes(path) ? 200 : 503]));
  // Answers to changes are sent however many clients read.
  const removed = await tenants.ask("ann", `/v1/responses/${tenants.ids.response}`, { method: "DELETE" });
  expect(removed.status).toBe(200);
  for (const release of releases) release();
  expect(admission.stats.sending).toStrictEqual({ requests: 0, bytes: 0 });
});

test("every route of the API that is read counts towards the client's limit of reads", async () => {
  const tenants = await serveTenants({ requestsPerMinute: 1000 });
  const operations = [...UNCOUNTED, "/metrics"];
  let numLeft = 1000 - Number((await tenants.ask("ann", "/v1/models")).headers.get("x-ratelimit-remaining-requests"));
  numLeft = 1000 - numLeft;
  for (const path of readPaths(tenants)) {
    const left = (await tenants.ask("ann", path)).headers.get("x-ratelimit-remaining-requests");
    expect([path, left]).toStrictEqual([path, operations.includes(path) ? null : `${--numLeft}`]);
  }
});

test("a long answer goes out in slices, and other connections have turns between them", async () => {
  const turnNow = countTurns();
  const slices: (readonly [bytes: number, turn: number])[] = [];
  const take = (chunk: Uint8Array): boolean => slices.push([chunk.byteLength, turnNow()]) > 0;
  // A reader that takes everything at once.
  const reply = Object.assign(new EventEmitter(), {
    setHeader: () => undefined,
    write: take,
    end(chunk: Uint8Array) {
      take(chunk);
      queueMicrotask(() => reply.emit("finish"));
    },
  });
  const options = { slowReaderMs: 1000, timers: manualTimers() };
  await sendBytes(reply as unknown as Reply, { parts: [Buffer.alloc(300_000)], type: "x" }, options);
  expect(slices.map(([bytes]) => bytes)).toStrictEqual([65_536, 65_536, 65_536, 65_536, 37_856]);
  expect(new Set(slices.map(([, turn]) => turn)).size).toBe(5);
});

const SLOW_MS = 777;
/** More than the buffers of a connection take. */
const TEXT_BYTES = 8_000_000;

test("clients that do not read hold a bounded part of memory, and are disconnected", async () => {
  const timers = manualTimers();
  const admission = new Admission({ maxBytes: 64 << 20, maxClientShare: 0.5 });
  const options = { admission, timers, slowReaderMs: SLOW_MS, maxBodyBytes: 16 << 20 };
  const { port, ids, ask } = await serveTenants(options, "x".repeat(TEXT_BYTES));
  const head = `GET /v1/responses/${ids.response} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ann\r\n\r\n`;
  let numClosed = 0;
  const sockets = await Promise.all(Array.from({ length: 40 }, () => openSocket(port)));
  onTestFinished(() => sockets.forEach((socket) => void socket.destroy()));
  for (const socket of sockets) {
    socket.on("error", () => undefined).on("close", () => numClosed++);
    socket.pause().write(head.repeat(12));
  }
  // Four answers fill the client's half.
  await expect.poll(() => timers.count(SLOW_MS), { timeout: 20_000 }).toBe(4);
  await expect.poll(async () => (await ask("ann", `/v1/responses/${ids.response}`)).status).toBe(429);
  expect(admission.stats.sending.requests).toBe(4);
  expect(admission.stats.sending.bytes).toBeGreaterThan(4 * TEXT_BYTES);
  expect(admission.stats.sending.bytes).toBeLessThanOrEqual(32 << 20);
  expect((await ask("bob", "/v1/models")).status).toBe(200);
  expect((await ask("bob", "/livez")).status).toBe(200);
  for (const socket of sockets) socket.resume();
  const unread = timers.fire(SLOW_MS);
  expect(unread).toBe(4);
  await expect.poll(() => admission.stats.sending).toStrictEqual({ requests: 0, bytes: 0 });
  await expect.poll(() => numClosed).toBe(4);
});
