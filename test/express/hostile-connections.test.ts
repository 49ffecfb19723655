// Clients that send ahead, send incomplete bodies, do not read, or leave: the server frees their resources and serves
// other clients.

import { connect, type Socket } from "node:net";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, boundConnections, localHostsOnly, oneAtATime, readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { postJson } from "../support/post-json.ts";
import { openSocket, postHead, readAll } from "../support/raw-http.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { countTurns } from "../support/turns.ts";

const TEXT = "/v1/completions";
const STREAM = JSON.stringify({ prompt: "x", max_tokens: ENDLESS_TOKENS, ignore_eos: true, stream: true });

let engine: ReadMeEngine;
let server: RunningServer;
const admission = new Admission({ maxRequests: 64, maxBytes: 1 << 20 });

beforeAll(async () => {
  engine = await openTinyEngine(await persistentFolder(), {}, ENDLESS);
  server = await listen(express().set("trust proxy", true).use(readMe({ engine, admission })));
  boundConnections(server.server);
});
afterEach(async () => {
  await expect
    .poll(() => admission.stats)
    .toMatchObject({
      requests: 0,
      tokens: 0,
      bytes: 0,
      waiting: 0,
      arriving: { requests: 0, bytes: 0 },
    });
  await expect.poll(async () => (await engine.stats()).kvUsedTokens).toBe(0);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const keptPost = (path: string, body: string): string =>
  postHead(path, body.length).replace("Connection: close\r\n", "") + body;

async function quietSocket(port: number): ReturnType<typeof openSocket> {
  const socket = await openSocket(port);
  socket.on("error", () => undefined);
  onTestFinished(() => void socket.destroy());
  return socket;
}

describe("requests sent ahead", () => {
  test("are answered one after the other", async () => {
    const socket = await quietSocket(server.port);
    const bodies = Array.from({ length: 12 }, (_, index) =>
      JSON.stringify({ prompt: "x", max_tokens: index + 1, ignore_eos: true }),
    );
    socket.write(bodies.map((body) => keptPost(TEXT, body)).join(""));
    socket.write("GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    const text = await readAll(socket);
    const counts = [...text.matchAll(/"completion_tokens":(\d+)/g)].map(([, count]) => Number(count));
    expect(counts).toEqual(bodies.map((_, index) => index + 1));
    expect(text).toContain('{"version":');
  });

  test("begin in turns of their own, so that other connections are answered between them", async () => {
    const turnNow = countTurns();
    const turns: number[] = [];
    const app = express().use(oneAtATime, (_request, response) => {
      turns.push(turnNow());
      response.end("x");
    });
    const quick = await listen(app);
    onTestFinished(() => quick[Symbol.asyncDispose]());
    const socket = await quietSocket(quick.port);
    const head = "GET / HTTP/1.1\r\nHost: localhost\r\n";
    socket.write(`${`${head}\r\n`.repeat(11)}${head}Connection: close\r\n\r\n`);
    await readAll(socket);
    expect(turns).toHaveLength(12);
    expect(new Set(turns).size).toBe(12);
  });

  test("hold one place, which is freed when the client leaves", async () => {
    const socket = await quietSocket(server.port);
    socket.write(keptPost(TEXT, STREAM).repeat(10));
    await expect.poll(async () => (await engine.stats()).numRunning).toBe(1);
    expect(admission.stats.requests).toBe(1);
    socket.destroy();
    await expect.poll(async () => (await engine.stats()).numRunning).toBe(0);
  });

  test("in large numbers are hardly processed", async () => {
    let numAsked = 0;
    const app = express();
    app.use((_request, _response, next) => {
      numAsked++;
      next();
    });
    const counting = await listen(app.use(readMe({ engine })));
    onTestFinished(() => counting[Symbol.asyncDispose]());
    boundConnections(counting.server);
    const sockets = await Promise.all(Array.from({ length: 5 }, () => quietSocket(counting.port)));
    for (const socket of sockets) socket.pause().write("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000));
    await Promise.all(sockets.map((socket) => readAll(socket.resume())));
    expect(numAsked).toBeLessThan(5 * 250);
    expect((await fetch(`${counting.url}/livez`)).status).toBe(200);
  });
});

describe("incomplete bodies", () => {
  test("reserve room while they arrive, leave room for other clients, and free it when their client leaves", async () => {
    const half = (client: string): string => postHead(TEXT, 300_000, [`X-Forwarded-For: ${client}`]) + " ".repeat(1000);
    const sockets = await Promise.all(Array.from({ length: 8 }, () => quietSocket(server.port)));
    let numRefused = 0;
    for (const socket of sockets) void readAll(socket).then((text) => (numRefused += text.includes(" 429 ") ? 1 : 0));
    for (const socket of sockets) socket.write(half("10.0.0.1"));
    // Three of them fit, and the others are refused before their body arrives.
    await expect.poll(() => numRefused).toBe(5);
    expect(admission.stats.arriving.requests).toBe(3);
    const other = await postJson(
      `${server.url}${TEXT}`,
      { prompt: "x", max_tokens: 1 },
      { "x-forwarded-for": "10.0.0.2" },
    );
    expect(other.status).toBe(200);
    for (const socket of sockets) socket.destroy();
  });

  test("of two clients leave room for a third", async () => {
    const sockets: Socket[] = [];
    const begin = async (client: string, bytes: number): Promise<{ readonly answer: Promise<string> }> => {
      const socket = await quietSocket(server.port);
      sockets.push(socket);
      const answer = readAll(socket);
      socket.write(postHead(TEXT, bytes, [`X-Forwarded-For: ${client}`]));
      return { answer };
    };
    for (let count = 0; count < 3; count++) await begin("10.0.0.1", 300_000);
    for (let count = 0; count < 2; count++) await begin("10.0.0.2", 60_000);
    await expect.poll(() => admission.stats.arriving.requests).toBe(5);
    // The last bytes are not for a client that has most of the rest.
    expect(await (await begin("10.0.0.2", 28_000)).answer).toContain(" 429 ");
    const prompt = "x".repeat(1000);
    const url = `${server.url}${TEXT}`;
    const third = await postJson(url, { prompt, max_tokens: 1 }, { "x-forwarded-for": "10.0.0.3" });
    expect(third.status).toBe(200);
    // Sockets are closed before hooks wait for what they hold, which would take until the server ends them.
    for (const socket of sockets) socket.destroy();
  });
});

test("a declared length above the limit is refused before the body arrives, on every route", async () => {
  const length = 10 ** 15;
  const posted = await quietSocket(server.port);
  posted.write(postHead(TEXT, length));
  expect(await readAll(posted)).toMatch(/^HTTP\/1\.1 413 /);
  const got = await quietSocket(server.port);
  got.write(`GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${length}\r\n\r\nx`);
  expect(await readAll(got)).toMatch(/^HTTP\/1\.1 200 [^]*Connection: close/);
});

test("long names from a client are shortened in errors", async () => {
  for (const body of [
    { ["k".repeat(1_000_000)]: 0, prompt: "x" },
    { prompt: "x", metadata: { ["k".repeat(1_000_000)]: 0 } },
  ]) {
    const { status, body: answer } = await postJson(`${server.url}${TEXT}`, body);
    expect(status).toBe(400);
    expect(JSON.stringify(answer).length).toBeLessThan(2000);
  }
});

describe("a server without keys", () => {
  test.each([
    ["localhost", 200],
    ["localhost:8080", 200],
    ["127.0.0.1:1", 200],
    ["[::1]:8080", 200],
    ["app.localhost", 200],
    ["rebound.example.org", 403],
    ["127.0.0.1.example.org", 403],
    ["localhost.example.org:80", 403],
    ["", 403],
  ])("asked as %j answers %i", async (host, status) => {
    const local = await listen(express().use(localHostsOnly).use(readMe({ engine })));
    onTestFinished(() => local[Symbol.asyncDispose]());
    const socket = connect(local.port, "127.0.0.1");
    socket.write(`GET /livez HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    expect(await readAll(socket)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  });
});
