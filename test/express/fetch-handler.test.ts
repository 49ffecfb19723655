// The handler of web requests: its options, its clients' addresses, its end, and what it does not load.

import { join } from "node:path";
import { ServedModels, type FetchInfo, type FetchOptions, type ShareTraffic } from "@readme-moe/express";
import { fetchHandler } from "@readme-moe/express/fetch";
import { expect, onTestFinished, test } from "vitest";
import { Deferred } from "../support/deferred.ts";
import { outcomeOf, startNode } from "../support/node-process.ts";
import { chunkOf, chunksInTurns, nextTurn, scriptedEngine, USAGE } from "../support/scripted-engine.ts";

const SCRIPT = chunksInTurns(chunkOf(0, "a"), chunkOf(0, "b", { finishReason: "length", usage: USAGE }));

function opened(options: Partial<FetchOptions> = {}): ReturnType<typeof fetchHandler> {
  const handler = fetchHandler({ engine: scriptedEngine(SCRIPT), ...options });
  onTestFinished(() => handler[Symbol.asyncDispose]());
  return handler;
}

const completion = (path = "/v1/completions", more: object = {}, init: RequestInit = {}): Request =>
  new Request(`http://localhost${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(init.headers as object) },
    body: JSON.stringify({ prompt: "x", max_tokens: 2, ...more }),
    ...(init.signal && { signal: init.signal }),
  });

async function codeOf(answer: Promise<Response>): Promise<string> {
  const response = await answer;
  const { error } = (await response.json()) as { error?: { code?: string } };
  return `${response.status} ${error?.code ?? ""}`.trim();
}

test("only the entry for Express loads Express", async () => {
  const program = join("test", "support", "programs", "loads-express.ts");
  const [fetchEntry, mainEntry] = await Promise.all(
    ["@readme-moe/express/fetch", "@readme-moe/express"].map((entry) => outcomeOf(startNode([program, entry]))),
  );
  expect(fetchEntry).toMatchObject({ code: 0, stdout: "[]\n" });
  expect(mainEntry?.stdout).toContain("express");
});

test("routes begin at the base path, and nothing else is answered", async () => {
  const { fetch } = opened({ basePath: "/ai/api" });
  expect((await fetch(completion("/ai/api/v1/completions"))).status).toBe(200);
  expect((await fetch(new Request("http://localhost/ai/api/health"))).status).toBe(200);
  for (const path of ["/v1/completions", "/ai/v1/completions", "/ai/apiv1/completions", "/ai/api", "/"]) {
    expect(await codeOf(fetch(completion(path))), path).toBe("404 unknown_url");
  }
  const unknown = await fetch(new Request("http://localhost/ai/api/v1/nothing"));
  expect(await unknown.text()).toContain("There is no GET /ai/api/v1/nothing");
});

test("events name the route with its base path, and never the client's own path", async () => {
  const models = new ServedModels({ scripted: scriptedEngine(SCRIPT) });
  const handlers: string[] = [];
  models.events.on("request:answered", ({ handler, status }) => handlers.push(`${status} ${handler}`));
  const { fetch } = opened({ engine: undefined, models, basePath: "/ai" });
  await (await fetch(completion("/ai/v1/completions"))).text();
  await (await fetch(new Request("http://localhost/ai/v1/models/some/thing"))).text();
  await (await fetch(new Request("http://localhost/ai/v1/secret"))).text();
  await nextTurn();
  expect(handlers).toEqual(["200 /ai/v1/completions", "404 /ai/v1/models/*id", "404 none"]);
});

test("hooks get the web request, and may refuse it", async () => {
  const seen: unknown[] = [];
  const request = completion();
  const { fetch } = opened({
    authorize: (asked) => {
      seen.push(asked);
      return asked.headers.get("x-user") === null ? "anybody" : undefined;
    },
    onRequest: (_body, { request: asked, key }) => void seen.push(asked, key),
  });
  expect((await fetch(request)).status).toBe(200);
  expect(seen).toEqual([request, request, "anybody"]);
  expect(await codeOf(fetch(completion(undefined, {}, { headers: { "x-user": "eve" } })))).toBe("401 invalid_api_key");
});

const byTenant: ShareTraffic<Request> = (_, { request }) => request.headers.get("x-tenant") ?? "a";

test("`share` gets the web request", async () => {
  const engines = { a: scriptedEngine(SCRIPT), b: scriptedEngine(SCRIPT) };
  const { fetch } = opened({ engine: undefined, models: new ServedModels(engines, { share: byTenant }) });
  const answer = await fetch(completion(undefined, {}, { headers: { "x-tenant": "b" } }));
  expect(await answer.json()).toMatchObject({ model: "b" });
});

test.each<readonly [string, (address: string) => FetchInfo]>([
  ["a field", (address) => ({ address })],
  ["Deno's argument", (hostname) => ({ remoteAddr: { hostname } })],
  ["Bun's argument", (address) => ({ address: { address: "::", port: 80 }, requestIP: () => ({ address }) })],
])("limits are counted by the address in %s", async (_, infoOf) => {
  const { fetch } = opened({ requestsPerMinute: 1 });
  const statuses = [];
  for (const address of ["10.0.0.1", "10.0.0.2", "10.0.0.1"]) {
    statuses.push((await fetch(completion(), infoOf(address))).status);
  }
  expect(statuses).toEqual([200, 200, 429]);
});

test("clients without an address count as one", async () => {
  const { fetch } = opened({ requestsPerMinute: 1 });
  expect((await fetch(completion())).status).toBe(200);
  expect((await fetch(completion(), { requestIP: () => null })).status).toBe(429);
});

test("a handler for this machine only refuses other hosts, by the header or by the address", async () => {
  const { fetch } = opened({ localHostsOnly: true });
  const asked = (url: string, headers: Record<string, string> = {}) => codeOf(fetch(new Request(url, { headers })));
  expect(await asked("http://localhost:8080/version")).toBe("200");
  expect(await asked("http://127.0.0.1/version")).toBe("200");
  expect(await asked("http://rebound.example.org/version")).toBe("403 forbidden_host");
  expect(await asked("http://localhost/version", { host: "rebound.example.org" })).toBe("403 forbidden_host");
});

/** Makes a request whose body arrives in pieces, and may break off with an error. */
function sent(pieces: readonly (string | Error)[], headers: Record<string, string> = {}): Request {
  const left = [...pieces];
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const piece = left.shift();
      if (piece === undefined) controller.close();
      else if (piece instanceof Error) controller.error(piece);
      else controller.enqueue(new TextEncoder().encode(piece));
    },
  });
  return new Request("http://localhost/v1/completions", {
    method: "POST",
    body,
    duplex: "half",
    headers: { "content-type": "application/json", ...headers },
  });
}

test("a body that arrives in pieces is read, and one that breaks off or is too long is refused", async () => {
  const { fetch } = opened({ maxBodyBytes: 1000 });
  expect((await fetch(sent(['{"prompt":', '"x","max_tokens":2', "}"]))).status).toBe(200);
  expect(await codeOf(fetch(sent(['{"prompt":', new Error("reset")])))).toBe("400 invalid_body");
  expect(await codeOf(fetch(sent(["x".repeat(600), "x".repeat(600)])))).toBe("413 request_too_large");
  expect(await codeOf(fetch(sent(['{"prompt":"x"}'], { "content-length": "20" })))).toBe("400 invalid_body");
});

test.each(["its signal", "its stream"])("a client that leaves by %s ends the generation", async (by) => {
  const ended = new Deferred<unknown>();
  const engine = scriptedEngine({
    async *answer({ signal }) {
      yield chunkOf(0, "a");
      await new Promise((resolve) => signal?.addEventListener("abort", resolve));
      ended.resolve(signal?.reason);
      signal?.throwIfAborted();
    },
  });
  const models = new ServedModels({ scripted: engine });
  const statuses: number[] = [];
  models.events.on("request:answered", ({ status }) => statuses.push(status));
  const { fetch } = opened({ engine: undefined, models });
  const client = new AbortController();
  const { body } = await fetch(completion(undefined, { stream: true }, { signal: client.signal }));
  if (by === "its signal") client.abort();
  else await body?.cancel();
  expect(await ended.promise).toMatchObject({ name: "ClientGone" });
  await nextTurn();
  expect([statuses, models.numLeases]).toEqual([[499], 0]);
});

test("after its end a handler refuses requests, and those under way are completed", async () => {
  const { fetch, dispose } = opened();
  const running = await fetch(completion(undefined, { stream: true }));
  const numEnded = dispose({ deadlineMs: 10_000 });
  expect(await codeOf(fetch(completion()))).toBe("503 shutting_down");
  expect((await fetch(new Request("http://localhost/readyz"))).status).toBe(503);
  expect(await running.text()).toContain("[DONE]");
  expect(await numEnded).toBe(0);
});

test.each<readonly [string, object]>([
  ["basePath", { basePath: "ai" }],
  ["basePath", { basePath: "/ai/" }],
  ["basePath", { basePath: 7 }],
  ["localHostsOnly", { localHostsOnly: "yes" }],
  ["fetchHandler", { unknown: 1 }],
  ["keys", { keys: [] }],
])("a wrong option is refused at once: %s %j", (name, options) => {
  expect(() => fetchHandler({ engine: scriptedEngine(SCRIPT), ...options })).toThrow(name);
});

test("a call that is no request, or whose body was read, is the caller's mistake", async () => {
  const { fetch } = opened();
  await expect(fetch("http://localhost/" as unknown as Request)).rejects.toThrow(TypeError);
  const read = completion();
  await read.text();
  await expect(fetch(read)).rejects.toThrow("not to have been read");
});
