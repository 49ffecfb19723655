// `/live` over real HTTP: snapshots of a running engine, changes of its settings, and limits.

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { chatbot } from "../../examples/chatbot/server/chatbot.ts";
import type { OpenedModel } from "../../examples/chatbot/server/live-model.ts";
import { LiveReaders } from "../../examples/chatbot/server/live-readers.ts";
import { LiveState } from "../../examples/chatbot/server/live-state.ts";
import type { LiveSnapshot } from "../../examples/chatbot/shared/live.ts";
import express, { type Response } from "express";
import { ReadMeEmitter } from "@readme-moe/core";
import { NUM_EXPERTS, openStreamedModel } from "../support/chatbot.ts";
import { postJson } from "../support/post-json.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let [model, server] = [] as unknown as [OpenedModel, RunningServer];
beforeAll(async () => {
  const folder = await persistentFolder();
  model = await openStreamedModel(folder);
  server = await listen(chatbot({ models: [model], pageFolder: folder, readers: { maxReaders: 2 } }).app);
});
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await model?.engine.dispose();
});

async function* snapshots(signal: AbortSignal, url = server.url): AsyncGenerator<LiveSnapshot, void, undefined> {
  const { body } = await fetch(`${url}/live?model=tiny`, { signal });
  if (!body) throw new Error("Expected a stream");
  let text = "";
  for await (const piece of body.pipeThrough(new TextDecoderStream())) {
    const events = (text + piece).split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) if (event.startsWith("data: ")) yield JSON.parse(event.slice(6)) as LiveSnapshot;
  }
}

/** Reads snapshots until one meets a condition. */
async function seen(isWanted: (snapshot: LiveSnapshot) => boolean): Promise<LiveSnapshot> {
  const leave = new AbortController();
  try {
    for await (const snapshot of snapshots(leave.signal)) if (isWanted(snapshot)) return snapshot;
  } finally {
    leave.abort();
  }
  throw new Error("The stream has ended");
}

const change = (path: string, values: object) => postJson(`${server.url}/live/${path}`, { model: "tiny", ...values });

describe("a running engine", () => {
  test("is shown step by step, with the experts in memory as the engine reports them", async () => {
    await change("load", { chats: 8 });
    const busy = await seen(({ step, pastSteps }) => step !== undefined && pastSteps.length > 20);
    expect(busy).toMatchObject({ simulatedChats: 8, scheduler: "cost-aware" });
    expect(busy.step?.sequences.length).toBeGreaterThan(0);
    for (const { id, tokens, experts } of busy.step?.sequences ?? []) {
      expect(id).toMatch(/^simulated-\d+-\d+/);
      expect(experts.reduce((sum, [, count]) => sum + count, 0)).toBe(tokens);
    }
    for (const { distinctExperts } of busy.pastSteps) expect(distinctExperts).toBeLessThanOrEqual(NUM_EXPERTS);
    expect(busy.tokensPerSecond).toBeGreaterThan(0);
    await change("load", { chats: 0 });
    const idle = await seen(({ step, tokensPerSecond }) => step === undefined && tokensPerSecond === 0);
    const { expertCache } = await model.engine.stats();
    const [bytes = 0] = expertCache?.layerBytes ?? [];
    const numResident = idle.memory?.resident.join("").replaceAll("0", "").length ?? 0;
    expect(idle.memory).toMatchObject({ usedBytes: expertCache?.usedBytes, evictions: expertCache?.evictions });
    expect(numResident * bytes).toBe(expertCache?.usedBytes);
  });

  test("can be changed while it runs, and snapshots show the change", async () => {
    await change("load", { chats: 2 });
    expect(await change("scheduling", { scheduler: "read-me" })).toMatchObject({ body: { scheduler: "read-me" } });
    const { memory } = await seen(({ step }) => step !== undefined);
    const bytes = memory?.leastBytes ?? 0;
    expect(await change("memory", { bytes })).toMatchObject({ status: 200, body: { memory: { budgetBytes: bytes } } });
    expect((await model.engine.stats()).expertCache?.budgetBytes).toBe(bytes);
    const refused = await change("memory", { bytes: bytes - 1 });
    expect([refused.status, refused.body]).toMatchObject([
      400,
      { error: { message: expect.stringContaining("Expected") as unknown } },
    ]);
    await change("load", { chats: 0 });
    await seen(({ step }) => step === undefined);
  });
});

test.each([
  ["scheduling", { scheduler: "best" }, 400],
  ["scheduling", { model: "other", scheduler: "fcfs" }, 404],
  ["memory", { bytes: "many" }, 400],
  ["memory", { bytes: 1.5 }, 400],
  ["load", { chats: 17 }, 400],
  ["load", { chats: -1 }, 400],
  ["load", { chats: 1, rest: "x".repeat(5000) }, 413],
])("%s with %j is refused with %i", async (path, values, status) => {
  const answer = await change(path, values);
  expect([answer.status, answer.body]).toMatchObject([status, { error: { message: expect.any(String) as unknown } }]);
});

test("forms of other sites change nothing", async () => {
  const body = new URLSearchParams({ model: "tiny", chats: "4" });
  const answer = await fetch(`${server.url}/live/load`, { method: "POST", body });
  expect(answer.status).toBe(415);
  expect((await seen(() => true)).simulatedChats).toBe(0);
});

test("changes during a snapshot are sent afterwards", async () => {
  const { engine } = model;
  // The test decides how long reading counters takes; the snapshot has the events until then.
  const gate = new EventTarget();
  let mayAnswer: Promise<unknown> = Promise.resolve();
  const slow = new Proxy(engine, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (name !== "stats") return typeof value === "function" ? value.bind(target) : value;
      return async () => {
        gate.dispatchEvent(new Event("asked"));
        await mayAnswer;
        return target.stats();
      };
    },
  });
  const app = chatbot({ models: [{ ...model, engine: slow }], pageFolder: await persistentFolder() }).app;
  const own = await listen(app);
  onTestFinished(() => own[Symbol.asyncDispose]());
  const leave = new AbortController();
  onTestFinished(() => leave.abort());
  const stream = snapshots(leave.signal, own.url);
  await stream.next();

  mayAnswer = once(gate, "answer");
  const asked = once(gate, "asked");
  engine.events.emit("sequence:queued", { sequenceId: "a", promptTokens: 3, numWaiting: 1 });
  const batch = { step: 1, sequenceIds: ["a"], numTokens: [3], positions: [0], distinctExperts: 1, numWaiting: 0 };
  engine.events.emit("batch:scheduled", batch);
  await asked;
  const counts = {
    promptTokens: 3,
    completionTokens: 0,
    cachedTokens: 0,
    acceptedDraftTokens: 0,
    rejectedDraftTokens: 0,
    queuedMs: 1,
    durationMs: 1,
  };
  engine.events.emit("sequence:finished", { sequenceId: "a", reason: "abort", ...counts });
  gate.dispatchEvent(new Event("answer"));
  const isBusy = async (): Promise<boolean> => (await stream.next()).value?.step !== undefined;
  while (!(await isBusy()));
  while (await isBusy());
});

test("the number of readers is limited", async () => {
  const leave = new AbortController();
  const watch = () => fetch(`${server.url}/live?model=tiny`, { signal: leave.signal });
  // Readers of earlier tests may just be leaving.
  for (const _ of [0, 1]) await until(async () => (await watch()).status === 200);
  expect((await watch()).status).toBe(503);
  leave.abort();
  await expect.poll(async () => (await fetch(`${server.url}/live?model=tiny`, { method: "HEAD" })).status).toBe(200);
});

test("a reader that reads nothing misses snapshots and is disconnected, without delaying others", async () => {
  // Time passes when the test says so: on a busy machine a quick reader may be as slow.
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  onTestFinished(() => void vi.useRealTimers());
  const readers = new LiveReaders({ slowReaderMs: 300 });
  const responses: Response[] = [];
  const app = express().get("/", (_, response) => {
    responses.push(response);
    readers.add(response);
  });
  const own = await listen(app);
  onTestFinished(() => own[Symbol.asyncDispose]());
  const open = async (): Promise<Socket> => {
    const socket = connect(own.port, "127.0.0.1");
    onTestFinished(() => void socket.destroy());
    await once(socket, "connect");
    const before = readers.size;
    socket.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    await expect.poll(() => readers.size).toBe(before + 1);
    return socket;
  };
  const slow = await open();
  slow.pause();
  const quick = await open();
  let bytes = 0;
  quick.on("data", (data: Buffer) => (bytes += data.length));
  /** Sends a snapshot, and waits until the quick reader has it. */
  const send = async (): Promise<void> => {
    const wanted = bytes + (1 << 20);
    readers.send({ text: "x".repeat(1 << 20) });
    const isRead = (): boolean => bytes >= wanted && responses[1]?.writableNeedDrain === false;
    await expect.poll(isRead, { interval: 5 }).toBe(true);
  };
  for (let count = 0; readers.size === 2 && count < 200; count++) {
    await send();
    vi.advanceTimersByTime(300);
  }
  await expect.poll(() => readers.size).toBe(1);
  await send();
});

test("finished sequences are forgotten, and everything after the engine has failed", () => {
  let now = 0;
  const [events, state] = [new ReadMeEmitter(), new LiveState(3, 2, () => now)];
  state.listen(events, () => undefined);
  // The engine routes a prompt before it queues the sequence.
  events.emit("router:routed", { sequenceId: "a", position: 0, experts: Uint16Array.of(2, 0, 2), durationMs: 1 });
  events.emit("sequence:queued", { sequenceId: "a", promptTokens: 3, numWaiting: 1 });
  const batch = { step: 1, sequenceIds: ["a", "late"], numTokens: [3, 1], positions: [0, 7] };
  events.emit("batch:scheduled", { ...batch, distinctExperts: 2, numWaiting: 4 });
  for (const layer of [0, 1]) events.emit("expert:loaded", { layer, expert: 1, bytes: 9, durationMs: 1 });
  events.emit("expert:evicted", { layer: 0, expert: 1, nextUse: 3 });
  events.emit("token:generated", { sequenceId: "a", tokenId: 1, position: 3, sinceMs: 1, isFirst: true });
  expect(state.observed()).toMatchObject({
    step: {
      number: 1,
      more: 0,
      sequences: [
        {
          id: "a",
          tokens: 3,
          experts: [
            [0, 1],
            [2, 2],
          ],
        },
        { id: "late", experts: [] },
      ],
    },
    numWaiting: 4,
    tokensPerSecond: 0.5,
    resident: ["00", "01", "00"],
  });
  now = 2001;
  const finished = {
    reason: "stop",
    promptTokens: 3,
    completionTokens: 1,
    cachedTokens: 0,
    acceptedDraftTokens: 0,
    rejectedDraftTokens: 0,
    queuedMs: 0,
    durationMs: 1,
  } as const;
  events.emit("sequence:finished", { sequenceId: "a", ...finished });
  expect(state.observed()).toMatchObject({ tokensPerSecond: 0, numWaiting: 0 });
  expect(state.observed().step).toBeUndefined();
  events.emit("engine:failed", { code: "ERR_ENGINE_FAILED", message: "" });
  expect(state.observed().resident).toEqual(["00", "00", "00"]);
});
