// The answer of the web as a writable stream: what its reader gets, and what its writer is told.

import { expect, test } from "vitest";
import { JSON_TYPE, sendJson, sendText, SseWriter } from "../../packages/express/src/http/reply.ts";
import { identify } from "../../packages/express/src/http/request.ts";
import { WebReply, WebRequest } from "../../packages/express/src/http/web.ts";
import * as fc from "../support/fast-check.ts";
import { manualTimers, type ManualTimers } from "../support/manual-timers.ts";
import { nextTurn } from "../support/scripted-engine.ts";

const HIGH_WATER_BYTES = 16 << 10;

interface Answered {
  readonly reply: WebReply;
  readonly client: AbortController;
  /** Events of the reply, in order. */
  readonly told: string[];
}

function answered(method = "GET"): Answered {
  const client = new AbortController();
  const web = new Request("http://localhost/x", { method, signal: client.signal });
  const reply = new WebReply(new WebRequest(web, { baseUrl: "", address: undefined }));
  const told: string[] = [];
  for (const event of ["drain", "finish", "close"] as const) reply.on(event, () => told.push(event));
  void identify(reply.req, reply, () => undefined);
  return { reply, client, told };
}

const readerOptions = (timers: ManualTimers) => ({
  keepAliveMs: 1,
  maxBufferedBytes: 1 << 20,
  slowReaderMs: 2,
  timers,
});

test("an answer that fits is handed over at once, with its status and headers", async () => {
  const { reply, told } = answered();
  reply.statusCode = 201;
  reply.setHeader("X-Count", 7);
  reply.vary("Origin");
  reply.vary("Accept");
  reply.end("héllo");
  expect([reply.headersSent, reply.writableFinished, reply.closed]).toEqual([true, true, false]);
  const response = await reply.response;
  expect([response.status, response.headers.get("x-count"), response.headers.get("vary")]).toEqual([
    201,
    "7",
    "Origin, Accept",
  ]);
  expect(await response.text()).toBe("héllo");
  expect([told, reply.closed]).toEqual([["finish", "close"], true]);
});

test("the answer to HEAD, and one without contents, has no body", async () => {
  const head = answered("HEAD");
  sendText(head.reply, '{"a":1}', JSON_TYPE);
  const response = await head.reply.response;
  expect([response.body, response.headers.get("content-length")]).toEqual([null, "7"]);
  const empty = answered();
  empty.reply.statusCode = 204;
  empty.reply.end();
  expect((await empty.reply.response).body).toBeNull();
});

/** Actions of a writer and a reader, in the order of a test. */
const steps = fc.array(
  fc.oneof(
    fc.record({ write: fc.integer({ min: 1, max: 3 * HIGH_WATER_BYTES }) }),
    fc.constant({ read: true } as const),
  ),
  { maxLength: 40 },
);

test("in any order of writes and reads, bytes arrive as written, and `drain` follows a full buffer that was emptied", async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (actions) => {
      const { reply, told } = answered();
      let written = 0;
      let [queued, numDrains, needsDrain] = [0, 0, false];
      const sizes: number[] = [];
      let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
      const received: Uint8Array[] = [];
      for (const action of actions) {
        if ("write" in action) {
          const chunk = Uint8Array.from({ length: action.write }, (_, index) => (written + index) % 251);
          written += action.write;
          queued += action.write;
          sizes.push(action.write);
          const isRoom = queued < HIGH_WATER_BYTES;
          expect(reply.write(chunk)).toBe(isRoom);
          needsDrain = !isRoom;
          expect(reply.writableLength).toBe(queued);
        } else if (sizes.length > 0) {
          reader ??= (await reply.response).body?.getReader();
          const { value } = (await reader?.read()) ?? {};
          if (value) received.push(value);
          queued -= sizes.shift() ?? 0;
          await nextTurn();
          if (queued === 0 && needsDrain) {
            numDrains++;
            needsDrain = false;
          }
          expect(told.filter((event) => event === "drain")).toHaveLength(numDrains);
        }
      }
      reply.end();
      const rest = (await reply.response).body;
      reader ??= rest?.getReader();
      expect(reply.writableFinished).toBe(queued === 0);
      for (;;) {
        const { done, value } = (await reader?.read()) ?? { done: true };
        if (done) break;
        if (value) received.push(value);
      }
      await nextTurn();
      expect(told.slice(-2)).toEqual(["finish", "close"]);
      expect(reply.writableFinished).toBe(true);
      const all = Buffer.concat(received);
      expect(all.length).toBe(written);
      expect(all.every((byte, index) => byte === index % 251)).toBe(true);
    }),
    { numRuns: 60 },
  );
});

test.each(["the signal", "the host"])(
  "a client that leaves by %s closes the answer, which is then not finished",
  async (by) => {
    const { reply, client, told } = answered();
    reply.write("a".repeat(10));
    const { body } = await reply.response;
    if (by === "the signal") client.abort();
    else await body?.cancel();
    await nextTurn();
    expect(told).toEqual(["close"]);
    expect([reply.destroyed, reply.writableFinished]).toEqual([true, false]);
    expect(reply.write("more")).toBe(false);
    reply.end();
    await nextTurn();
    expect(told).toEqual(["close"]);
    if (by === "the signal") await expect(new Response(body).text()).rejects.toThrow("cut off");
  },
);

test("a client that left before the answer began gets none", async () => {
  const { reply, client } = answered();
  client.abort();
  expect((await reply.response).status).toBe(499);
  const late = answered();
  late.client.abort();
  reply.end("too late");
  expect(reply.writableFinished).toBe(false);
});

test("events for a reader that takes nothing end with the time or the bytes that it may leave", async () => {
  for (const limit of ["time", "bytes"]) {
    const manual = manualTimers();
    const { reply, told } = answered();
    const writer = new SseWriter(reply, readerOptions(manual));
    writer.send({ data: "x".repeat(HIGH_WATER_BYTES) });
    expect([manual.count(2), reply.destroyed]).toEqual([1, false]);
    if (limit === "time") expect(manual.fire(2)).toBe(1);
    else for (let sent = 0; sent < 70; sent++) writer.send({ data: "x".repeat(HIGH_WATER_BYTES) });
    await nextTurn();
    expect([reply.destroyed, reply.writableFinished, told.at(-1)]).toEqual([true, false, "close"]);
    expect([manual.count(1), manual.count(2)]).toEqual([0, 0]);
    await expect((await reply.response).text()).rejects.toThrow("cut off");
  }
});

test("a reader that catches up may go on, and stall again", async () => {
  const manual = manualTimers();
  const { reply } = answered();
  const writer = new SseWriter(reply, readerOptions(manual));
  writer.send({ data: "0".repeat(HIGH_WATER_BYTES) });
  const reader = (await reply.response).body?.getReader();
  for (let stall = 0; stall < 3; stall++) {
    expect(manual.count(2)).toBe(1);
    await reader?.read();
    await nextTurn();
    expect(manual.fire(2)).toBe(0);
    expect(reply.destroyed).toBe(false);
    writer.send({ data: "1".repeat(HIGH_WATER_BYTES) });
  }
  expect(manual.fire(2)).toBe(1);
  expect(reply.destroyed).toBe(true);
});

test("a whole answer is given slice by slice, and ends with its reader's last read or with his delay", async () => {
  const body = { text: "y".repeat(300_000) };
  for (const reads of [true, false]) {
    const manual = manualTimers();
    const { reply } = answered();
    const sent = sendJson(reply, body, readerOptions(manual));
    await manual.waiting(2);
    expect(reply.writableLength).toBe(64 << 10);
    if (reads) expect(await (await reply.response).json()).toEqual(body);
    else manual.fire(2);
    await sent;
    expect([reply.writableFinished, manual.count(2)]).toEqual([reads, 0]);
  }
});
