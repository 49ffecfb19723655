// Servers that the API runs in beside Express 5: the same requests to each, over real connections.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { getConnInfo } from "@hono/node-server/conninfo";
import { readMe, type FetchOptions, type ReadMeOptions } from "@readme-moe/express";
import { fetchHandler } from "@readme-moe/express/fetch";
import express from "express";
import express4 from "express4";
import Fastify from "fastify";
import { Hono } from "hono";
import { describe, expect, onTestFinished, test } from "vitest";
import { Deferred } from "../support/deferred.ts";
import { openSocket, postHead, readAll } from "../support/raw-http.ts";
import { chunkOf, scriptedEngine, USAGE, type ScriptedEngineOptions } from "../support/scripted-engine.ts";
import { chunksOf } from "../support/sse.ts";

type Serve = (options: ReadMeOptions) => Promise<number>;

const LOCAL = { host: "127.0.0.1", port: 0 };

/** Starts a server until the test ends. @returns its port */
const HOSTS: Readonly<Record<string, Serve>> = {
  async Hono(options) {
    const { fetch } = fetchHandler(options as FetchOptions);
    const app = new Hono();
    app.all("/v1/*", (context) => fetch(context.req.raw, { address: getConnInfo(context).remote.address }));
    const server = createAdaptorServer({ fetch: app.fetch });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => void server.close());
    return (server.address() as AddressInfo).port;
  },
  async Fastify(options) {
    const api = express().use(readMe(options));
    const app = Fastify({ forceCloseConnections: true });
    await app.register(async (scope) => {
      scope.removeAllContentTypeParsers();
      scope.addContentTypeParser("*", (_request, _body, done) => done(null));
      scope.all("/v1/*", (request, reply) => {
        reply.hijack();
        api(request.raw, reply.raw);
      });
    });
    await app.listen(LOCAL);
    onTestFinished(() => app.close());
    return (app.server.address() as AddressInfo).port;
  },
  async "Express 4"(options) {
    const server = express4().use(readMe(options)).listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => void server.close());
    return (server.address() as AddressInfo).port;
  },
};

/** Makes an engine whose answers go on when a test says so. */
function steppedEngine(): {
  readonly script: ScriptedEngineOptions;
  readonly step: () => void;
  readonly ended: Promise<string>;
} {
  const [goesOn, ended] = [new Deferred(), new Deferred<string>()];
  const script: ScriptedEngineOptions = {
    async *answer({ signal }) {
      yield chunkOf(0, "a");
      signal?.addEventListener("abort", () => goesOn.resolve());
      await goesOn.promise;
      ended.resolve(signal?.aborted ? "aborted" : "complete");
      signal?.throwIfAborted();
      yield chunkOf(0, "b", { finishReason: "length", usage: USAGE });
    },
  };
  return { script, step: () => goesOn.resolve(), ended: ended.promise };
}

const post = (port: number, body: object, init: RequestInit = {}): Promise<Response> =>
  fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "x", ...body }),
    ...init,
  });

describe.each(Object.entries(HOSTS))("%s", (_, serve) => {
  test("sends each event of a stream when it is made", async () => {
    const { script, step, ended } = steppedEngine();
    const port = await serve({ engine: scriptedEngine(script) });
    const { status, body } = await post(port, { stream: true });
    expect(status).toBe(200);
    const reader = body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = (await reader?.read())?.value ?? "";
    expect(text).toContain('"text":"a"');
    step();
    expect(await ended).toBe("complete");
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true };
      if (done) break;
      text += value ?? "";
    }
    expect(chunksOf(text).at(-1)?.choices[0]).toMatchObject({ text: "b", finish_reason: "length" });
  });

  test.each([true, false])("ends the generation of a client that leaves (stream: %s)", async (stream) => {
    const { script, ended } = steppedEngine();
    const begun = new Deferred();
    const port = await serve({ engine: scriptedEngine(script), onRequest: () => begun.resolve() });
    const client = new AbortController();
    const answer = post(port, { stream }, { signal: client.signal });
    const settled = Promise.allSettled([answer]);
    await (stream ? answer : begun.promise);
    client.abort();
    expect(await ended).toBe("aborted");
    await settled;
  });

  test("refuses a large body before it arrives, and serves other requests", async () => {
    const { script } = steppedEngine();
    const port = await serve({ engine: scriptedEngine(script) });
    const socket = await openSocket(port);
    socket.write(`${postHead("/v1/completions", 10 ** 9)}{`);
    expect(await readAll(socket)).toMatch(/^HTTP\/1\.1 413 [^]*request_too_large/);
    const models = await fetch(`http://127.0.0.1:${port}/v1/models/org%2Fother`);
    expect([models.status, await models.json()]).toMatchObject([404, { error: { code: "model_not_found" } }]);
  });

  test("disconnects a reader that takes nothing", async () => {
    const ended = new Deferred<unknown>();
    const engine = scriptedEngine({
      async *answer({ signal }) {
        for (;;) {
          if (signal?.aborted) break;
          yield chunkOf(0, "x".repeat(1 << 16));
          await new Promise((resolve) => setImmediate(resolve));
        }
        ended.resolve(signal?.reason);
      },
    });
    const port = await serve({ engine, maxBufferedBytes: 1 << 16 });
    const socket = await openSocket(port);
    socket.pause();
    const body = JSON.stringify({ prompt: "x", stream: true });
    socket.write(postHead("/v1/completions", body.length) + body);
    expect(await ended.promise).toMatchObject({ name: "ClientGone" });
    socket.destroy();
  });

  test("counts a client by its address", async () => {
    const { script } = steppedEngine();
    const admission = { maxClientShare: 0.5, maxRequests: 2 };
    const port = await serve({ engine: scriptedEngine(script), admission });
    const client = new AbortController();
    const first = await post(port, { stream: true }, { signal: client.signal });
    const second = await post(port, {});
    expect([first.status, second.status]).toEqual([200, 429]);
    client.abort();
    await first.text().catch(() => undefined);
  });
});
