// The writer of server-sent events, over real connections with slow readers.

import { once } from "node:events";
import express, { type Response } from "express";
import { describe, expect, test } from "vitest";
import { SseWriter } from "../../packages/express/src/http/reply.ts";
import { identify, systemTimers } from "../../packages/express/src/http/request.ts";
import { manualTimers } from "../support/manual-timers.ts";
import { openSocket, readAll } from "../support/raw-http.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { httpChunks } from "../support/sse.ts";

describe("a writer", () => {
  const big = { data: { text: "x".repeat(1 << 20) } };

  test("disconnects a reader with too much unread data", async () => {
    const { server: running, socket, response } = await unread();
    const writer = new SseWriter(response, {
      keepAliveMs: 1e6,
      maxBufferedBytes: 1 << 20,
      slowReaderMs: 1e6,
      timers: systemTimers,
    });
    const closed = once(response, "close");
    for (let sent = 0; sent < 64 && !response.destroyed; sent++) {
      writer.send(big);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await closed;
    expect(response.writableFinished).toBe(false);
    writer.send(big);
    socket.destroy();
    await running[Symbol.asyncDispose]();
  });

  test("sends one event of any size to a reader that takes it", async () => {
    const { server: running, socket, response } = await unread();
    const options = { keepAliveMs: 1e6, maxBufferedBytes: 1000, slowReaderMs: 1e6, timers: systemTimers };
    const all = readAll(socket.resume());
    void new SseWriter(response, options).end(big, { data: "[DONE]" });
    expect((await all).includes("data: [DONE]\n\n")).toBe(true);
    await running[Symbol.asyncDispose]();
  });

  test("disconnects a reader that takes nothing for too long, but not one that reads", async () => {
    const manual = manualTimers();
    const options = { keepAliveMs: 1, maxBufferedBytes: 1 << 30, slowReaderMs: 2, timers: manual };
    for (const reads of [true, false]) {
      const { server: running, socket, response } = await unread();
      const writer = new SseWriter(response, options);
      for (let sent = 0; sent < 16; sent++) writer.send(big);
      await manual.waiting(2);
      if (reads) {
        const drained = once(response, "drain");
        const all = readAll(socket);
        socket.resume();
        await drained;
        expect(manual.fire(2)).toBe(0);
        void writer.end({ data: "[DONE]" });
        expect((await all).includes("data: [DONE]\n\n")).toBe(true);
      } else {
        expect(manual.fire(2)).toBe(1);
        expect(response.destroyed).toBe(true);
        socket.destroy();
      }
      await running[Symbol.asyncDispose]();
    }
    expect(manual.fire(1)).toBe(0);
  });

  test("disconnects a reader that stalls again after it has taken everything", async () => {
    const manual = manualTimers();
    const options = { keepAliveMs: 1, maxBufferedBytes: 1 << 30, slowReaderMs: 2, timers: manual };
    const { server: running, socket, response } = await unread();
    const writer = new SseWriter(response, options);
    socket.on("data", () => undefined);
    const sendMore = (): void => {
      for (let sent = 0; sent < 16; sent++) writer.send(big);
    };
    for (let stall = 0; stall < 3; stall++) {
      sendMore();
      expect(response.writableNeedDrain).toBe(true);
      const drained = once(response, "drain");
      socket.resume();
      await drained;
      socket.pause();
      expect(manual.fire(2), `waits of stall ${stall} that are left`).toBe(0);
      expect(response.destroyed).toBe(false);
    }
    sendMore();
    expect(manual.fire(2), "waits of the last stall").toBe(1);
    expect(response.destroyed).toBe(true);
    expect(manual.fire(1)).toBe(0);
    socket.destroy();
    await running[Symbol.asyncDispose]();
  });
});

test("a client that leaves ends all waits", async () => {
  const manual = manualTimers();
  const { server: running, socket, response } = await unread();
  const writer = new SseWriter(response, {
    keepAliveMs: 1,
    maxBufferedBytes: 1 << 30,
    slowReaderMs: 2,
    timers: manual,
  });
  for (let sent = 0; sent < 16; sent++) writer.send({ data: { text: "x".repeat(1 << 20) } });
  expect([manual.count(1), manual.count(2)]).toEqual([1, 1]);
  const closed = once(response, "close");
  socket.destroy();
  await closed;
  expect([manual.count(1), manual.count(2)]).toEqual([0, 0]);
  void writer.end({ data: "[DONE]" });
  writer.send({ data: { text: "too late" } });
  expect([manual.count(1), manual.count(2)]).toEqual([0, 0]);
  await running[Symbol.asyncDispose]();
});

test("nothing is sent, headers included, before the first event, and each write is flushed where that is possible", async () => {
  const manual = manualTimers();
  const options = { keepAliveMs: 1, maxBufferedBytes: 1 << 20, slowReaderMs: 2, timers: manual };
  for (const flushes of [true, false]) {
    const { server: running, socket, response } = await unread();
    const flushed: number[] = [];
    // Compressing middleware sets a function; any other value of that name is not ours to call.
    Object.assign(response, { flush: flushes ? () => flushed.push(response.writableLength) : "soon" });
    const writer = new SseWriter(response, options);
    writer.send();
    expect([response.headersSent, manual.count(1), flushed.length]).toEqual([false, 0, 0]);
    writer.send({ data: { a: 1 } }, { event: "b", data: { b: 2 } });
    expect(flushed).toHaveLength(flushes ? 1 : 0);
    expect(manual.fire(1)).toBe(1);
    void writer.end({ data: "[DONE]" });
    writer.send({ data: { c: 3 } });
    expect(flushed).toHaveLength(flushes ? 3 : 0);
    expect([manual.count(1), manual.count(2)]).toEqual([0, 0]);
    const all = readAll(socket);
    socket.resume();
    const text = await all;
    expect(text).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    const pieces = ['data: {"a":1}\n\nevent: b\ndata: {"b":2}\n\n', ": ping\n\n", "data: [DONE]\n\n"];
    expect(httpChunks(text)).toEqual(pieces);
    await running[Symbol.asyncDispose]();
  }
});

test("a stream that waits sends a comment at once or with the first pause, and the form's own ping", async () => {
  const manual = manualTimers();
  const options = { keepAliveMs: 1, maxBufferedBytes: 1 << 20, slowReaderMs: 2, timers: manual };
  const ping = { event: "ping", data: { type: "ping" } };
  const told = 'event: ping\ndata: {"type":"ping"}\n\n';
  for (const [form, atOnce, after] of [
    [{}, ": now\n\n", ": later\n\n"],
    [{ ping }, told, told],
    [{ framing: "lines" as const }, " ", " "],
  ] as const) {
    const { server: running, socket, response } = await unread();
    const writer = new SseWriter(response, options, form);
    writer.wait("soon", false);
    expect([response.headersSent, manual.count(1)]).toEqual([false, 1]);
    writer.wait("now", true);
    // The timer goes on from there, however often the comment changes.
    const since = manual.waitingSince(1);
    writer.wait("later", true);
    expect([response.headersSent, manual.waitingSince(1), manual.fire(1)]).toEqual([true, since, 1]);
    writer.send({ data: "x" });
    writer.abandon();
    void writer.end();
    const all = readAll(socket);
    socket.resume();
    expect(httpChunks(await all)).toEqual([atOnce, after, "framing" in form ? "x\n" : "data: x\n\n"]);
    writer.wait("too late", true);
    expect(manual.count(1)).toBe(0);
    await running[Symbol.asyncDispose]();
  }
});

test("a stream that is abandoned keeps its connection open no longer, and can still end with an error", async () => {
  const manual = manualTimers();
  const options = { keepAliveMs: 1, maxBufferedBytes: 1 << 20, slowReaderMs: 2, timers: manual };
  const { server: running, socket, response } = await unread();
  const writer = new SseWriter(response, options);
  writer.send({ data: { a: 1 } });
  writer.abandon();
  expect(manual.count(1)).toBe(0);
  void writer.end({ event: "error", data: { message: "Gone" } });
  expect(manual.count(1)).toBe(0);
  const all = readAll(socket);
  socket.resume();
  expect(httpChunks(await all)).toEqual(['data: {"a":1}\n\n', 'event: error\ndata: {"message":"Gone"}\n\n']);
  await running[Symbol.asyncDispose]();
});

/** Opens a server that hands out its response, and a connection that reads nothing. */
async function unread(): Promise<{
  server: RunningServer;
  socket: Awaited<ReturnType<typeof openSocket>>;
  response: Response;
}> {
  const app = express();
  const answered = new Promise<Response>((resolve) => {
    app.use(identify, (_, response) => resolve(response));
  });
  const running = await listen(app);
  const socket = await openSocket(running.port);
  socket.pause();
  socket.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  return { server: running, socket, response: await answered };
}
