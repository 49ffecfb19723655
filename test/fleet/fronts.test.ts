// Two fronts over HTTP: a stream that one has begun goes on at the other, byte for byte.

import { InMemorySpanExporter, BasicTracerProvider, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { openPromptReader, type ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import { FleetEngine, FleetWorker, readFleetStatus } from "@readme-moe/fleet";
import express from "express";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { traceJobs } from "../../examples/observability/trace-jobs.ts";
import { jobOfKey, requestKeys } from "../../packages/fleet/src/keys.ts";
import { collectAnswer, readAnswer } from "../support/fleet/requests.ts";
import { blocksOf, readBlocks, type SseBlock } from "../support/fleet/sse-blocks.ts";
import { Valve } from "../support/fleet/valve.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a fleet's fronts did not run: ${noServer}`);

const CHAT = { messages: [{ role: "user", content: "The ship was" }], stream: true, seed: 5, max_tokens: 24 };
const TOOL = { type: "function", function: { name: "look", parameters: { type: "object", properties: {} } } };
const BODIES: readonly (readonly [name: string, path: string, body: object])[] = [
  [
    "a chat with choices, log-probabilities, routes and usage",
    "chat/completions",
    {
      ...CHAT,
      n: 2,
      logprobs: true,
      stream_options: { include_usage: true },
      read_me: { include: ["routes"] },
    },
  ],
  ["a chat with calls", "chat/completions", { ...CHAT, tools: [TOOL], tool_choice: "required", max_tokens: 60 }],
  ["a completion", "completions", { prompt: "The ship was", stream: true, max_tokens: 24, n: 2, seed: 3 }],
  ["a response", "responses", { input: "The ship was", stream: true, max_output_tokens: 24, seed: 3 }],
  ["a message", "messages", { messages: CHAT.messages, stream: true, max_tokens: 24, seed: 3 }],
];

describe.skipIf(noServer !== undefined)("two fronts of a fleet (skipped without Valkey)", () => {
  let valkey: ValkeyServer;
  let local: ReadMeEngine;
  let worker: FleetWorker;
  let [first, second] = [] as unknown as [FleetEngine, FleetEngine];
  const servers: RunningServer[] = [];
  const valve = new Valve();
  /** Messages of the fronts. */
  const errors: string[] = [];

  const post = (front: number, path: string, body: object, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`${servers[front]?.url}/v1/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer sk-one", ...headers },
      body: JSON.stringify(body),
    });
  /** Goes on with a stream behind one of its events. */
  const goOn = (front: number, path: string, body: object, block: SseBlock | undefined): Promise<Response> =>
    post(front, path, body, { "last-event-id": block?.id ?? "none" });
  const wholeStream = async (path: string, body: object): Promise<readonly SseBlock[]> => {
    const response = await post(0, path, body);
    expect(response.status).toBe(200);
    return blocksOf(await response.text());
  };
  const read = (path: string, body: object, count: number): Promise<readonly SseBlock[]> =>
    readBlocks(`${servers[0]?.url}/v1/${path}`, { body, headers: { authorization: "Bearer sk-one" }, count });
  /** Answers of the routes of health, and of a request. */
  const answers = async (): Promise<readonly (readonly [status: number, body: unknown])[]> => {
    const paths = ["health", "readyz", "livez"].map((path) => fetch(`${servers[0]?.url}/${path}`));
    const all = [...paths, post(0, "completions", { prompt: "a", max_tokens: 1 })];
    return Promise.all((await Promise.all(all)).map(async (one) => [one.status, await one.json()] as const));
  };
  const isIdle = (): Promise<boolean> =>
    until(async () => {
      await valkey.redis.ping();
      return worker.numRunning === 0;
    });

  beforeAll(async () => {
    valkey = await startValkey();
    const folder = await persistentFolder();
    local = await openTinyEngine(folder);
    worker = FleetWorker.open({ fleet: valkey.url, engine: valve.of(local), id: "one" });
    const open = async (): Promise<FleetEngine> =>
      FleetEngine.open({
        fleet: valkey.url,
        reader: await openPromptReader(join(folder, "tiny")),
        onError: ({ message }) => void errors.push(message),
      });
    [first, second] = [await open(), await open()];
    for (const engine of [first, second]) {
      await until(async () => {
        await engine.stats();
        return engine.info.modelVersion !== undefined;
      });
      servers.push(await listen(express().use(readMe({ engine, keys: { one: "sk-one", two: "sk-two" } }))));
    }
  });

  afterAll(async () => {
    for (const server of servers) await server[Symbol.asyncDispose]();
    await Promise.all([first?.dispose(), second?.dispose()]);
    await worker?.close();
    await local?.dispose();
    await valkey?.stop();
  });

  test.each(BODIES)("go on with %s after any of its events", async (_, path, body) => {
    const blocks = await wholeStream(path, body);
    expect(blocks.length).toBeGreaterThan(8);
    expect(new Set(blocks.map(({ id }) => id)).size).toBe(blocks.length);
    for (const at of [0, 1, Math.floor(blocks.length / 2), blocks.length - 2]) {
      const response = await goOn(1, path, body, blocks[at]);
      expect(response.status).toBe(200);
      const rest = blocks.slice(at + 1).map(({ text }) => text);
      const comparable = path === "responses" ? undated : (text: string): string => text;
      expect(comparable(await response.text())).toBe(comparable(rest.join("")));
    }
  });

  test("go on with nothing that is another key's, another request's, or gone", async () => {
    const [path, body] = ["completions", { prompt: "In the year", stream: true, max_tokens: 12, seed: 3 }] as const;
    const blocks = await wholeStream(path, body);
    const [at] = [blocks[5]];
    const answerId = at?.id?.split(":")[0] ?? "";
    await refused(await post(1, path, body, { "last-event-id": at?.id ?? "", authorization: "Bearer sk-two" }));
    await refused(await post(1, path, { ...body, echo: true }, { "last-event-id": at?.id ?? "" }));
    await refused(await post(1, path, { ...body, stream: false }, { "last-event-id": at?.id ?? "" }));
    await refused(await post(1, path, body, { "last-event-id": at?.id?.replace(/.$/, "z") ?? "" }));
    const changed = at?.id?.replace(/.$/, (last) => (last === "0" ? "1" : "0")) ?? "";
    await refused(await post(1, path, body, { "last-event-id": changed }));
    const several = await wholeStream(path, { ...body, prompt: ["One", "Two"] });
    expect(several.map(({ id }) => id)).toEqual(several.map(() => undefined));
    // A client that has everything is told that nothing follows.
    expect((await goOn(1, path, body, blocks.at(-1))).status).toBe(204);
    await valkey.redis.del(requestKeys(answerId).log, requestKeys(answerId).meta, jobOfKey(answerId));
    await refused(await goOn(1, path, body, at));
  });

  test("end an answer when its connection ends, and not while its client may reconnect", async () => {
    const [path, body] = [
      "completions",
      { prompt: "Once upon a time", stream: true, max_tokens: 40, seed: 9 },
    ] as const;
    valve.close(8);
    const left = await read(path, body, 6);
    await isIdle();
    expect((await goOn(1, path, body, left[5])).status).toBe(404);
    const kept = await read(path, { ...body, read_me: { reconnect_ms: 60_000 } }, 6);
    const resumed = goOn(1, path, { ...body, read_me: { reconnect_ms: 60_000 } }, kept[5]);
    const texts = resumed.then((response) => response.text());
    valve.open();
    const whole = (await wholeStream(path, body)).map(({ text }) => textOf(text)).join("");
    const rest = blocksOf(await texts);
    expect([...kept.slice(0, 6), ...rest].map(({ text }) => textOf(text)).join("")).toBe(whole);
  });

  test("read an answer one at a time, and the earlier reader neither gets more nor ends it", async () => {
    const request = { prompt: "The court held that", params: { maxTokens: 30, seed: 4 }, client: "me" } as const;
    const expected = await readAnswer(local, request);
    valve.close(5);
    const earlier = first.generate({ ...request, id: "taken" });
    await earlier.next();
    expect(await second.follow({ id: "taken", client: "you" })).toBeUndefined();
    const later = await second.follow({ id: "taken", client: "me" });
    const reading = (async () => {
      for await (const _ of earlier);
    })();
    await expect(reading).rejects.toMatchObject({ code: "ERR_TAKEN_OVER" });
    await earlier.return?.();
    // The same front can take it back.
    const last = await first.follow({ id: "taken", client: "me" });
    const ended = (async () => {
      for await (const _ of later ?? []);
    })();
    await expect(ended).rejects.toMatchObject({ code: "ERR_TAKEN_OVER" });
    valve.open();
    if (!last) throw new Error("Expected the answer to be kept");
    expect(await last.accepted).toMatchObject({ promptTokens: expected.usage?.promptTokens });
    expect(await collectAnswer(last)).toEqual(expected);
  });

  test("pass the trace of a request on to the worker, whose spans join it", async () => {
    const exporter = new InMemorySpanExporter();
    const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
    await isIdle();
    traceJobs(worker.events, provider.getTracer("test"), "tiny");
    const [traceId, spanId] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];
    const body = { prompt: "A patient with", max_tokens: 4, ignore_eos: true };
    await (await post(0, "completions", body, { traceparent: `00-${traceId}-${spanId}-01` })).text();
    await isIdle();
    worker.events.removeAllListeners();
    const spans = exporter.getFinishedSpans();
    const job = spans.find(({ name }) => name === "text_completion tiny");
    expect(job).toMatchObject({
      parentSpanContext: { spanId },
      attributes: { "readme.worker": "one", "readme.end": "answered", "gen_ai.usage.output_tokens": 4 },
    });
    const parts = spans.filter((span) => span !== job);
    expect(parts.map(({ name }) => name).toSorted()).toEqual(["decode", "prefill", "queue"]);
    const jobId = job?.spanContext().spanId;
    expect(parts.map(({ parentSpanContext }) => parentSpanContext?.spanId)).toEqual([jobId, jobId, jobId]);
    expect(new Set(spans.map((span) => span.spanContext().traceId))).toEqual(new Set([traceId]));
    await provider.shutdown();
  });

  test("are not ready, and say which versions are there, while no worker has their model", async () => {
    const own = local.info.promptVersion?.slice(0, 8);
    const [nobody, others] = ["no worker takes requests", "workers are there for ffffffff"].map(
      (theirs) => `No worker of the fleet has this model: the version of its prompts is ${own}, and ${theirs}`,
    );
    const statuses = (): Promise<readonly number[]> => answers().then((all) => all.map(([status]) => status));
    expect(await statuses()).toStrictEqual([200, 200, 200, 200]);
    await worker.close();
    // Before that, a request would wait for a worker.
    await expect.poll(() => first.unavailable?.message).toBe(nobody);
    expect(await answers()).toStrictEqual(lacking(nobody));
    const info = { ...local.info, promptVersion: "f".repeat(64), modelVersion: "other" };
    const engine = new Proxy(valve.of(local), {
      get: (target, name) => (name === "info" ? info : (Reflect.get(target, name, target) as unknown)),
    });
    const theirs = ["one", "two"].map((id) => FleetWorker.open({ fleet: valkey.url, engine, id }));
    await expect.poll(answers).toStrictEqual(lacking(others));
    const { fronts, workers } = await readFleetStatus(valkey.url);
    const versions = [fronts, workers].map((all) => all.map(({ promptVersion }) => promptVersion));
    expect(versions).toStrictEqual([
      [local, local].map((one) => one.info.promptVersion),
      [info, info].map((one) => one.promptVersion),
    ]);
    await Promise.all(theirs.map((one) => one.close()));
    await expect.poll(answers).toStrictEqual(lacking(nobody));
    worker = FleetWorker.open({ fleet: valkey.url, engine: valve.of(local), id: "one" });
    await expect.poll(statuses).toStrictEqual([200, 200, 200, 200]);
    expect(new Set(errors)).toStrictEqual(new Set([nobody, others]));
  });
});

/** The answers of a front without a worker. */
function lacking(message = ""): readonly (readonly [status: number, body: unknown])[] {
  const why = `he model tiny cannot answer (ERR_NO_WORKER): ${message}; try again later`;
  const [code, type] = [503, "unavailable_error"];
  const refusal = { message: `${message}; try again later`, type: "server_error", param: null, code: "no_worker" };
  return [
    [503, { error: { code, message: `T${why}`, type } }],
    [503, { error: { code, message: `No model is ready: t${why}`, type } }],
    [200, { status: "alive" }],
    [503, { error: refusal }],
  ];
}

async function refused(response: Response): Promise<void> {
  expect(response.status).toBe(404);
  expect(await response.json()).toMatchObject({ error: { code: "stream_not_found" } });
}

/** Removes the time at which a response was complete, and the hashes of it in ids. */
function undated(text: string): string {
  return text.replaceAll(/"completed_at":\d+/g, "").replaceAll(/^(id: .*):[0-9a-f]{16}$/gm, "$1");
}

/** The text of a completion's event. */
function textOf(block: string): string {
  const data = /^data: (.*)$/m.exec(block)?.[1] ?? "";
  if (data === "[DONE]") return "";
  const { choices } = JSON.parse(data) as { choices: readonly { text: string }[] };
  return choices.map(({ text }) => text).join("");
}
