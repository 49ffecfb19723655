// Prompt routes in admission: what is recorded, and what a policy sees.

import { once } from "node:events";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, ApiError, readMe, type Entrant, type RoutedRequest, type Ticket } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { postJson } from "../support/post-json.ts";
import { openSocket, postHead, postRaw } from "../support/raw-http.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const PROMPTS = ["The ship was far out at sea", "One, two, three"];
let engine: ReadMeEngine;
beforeAll(async () => {
  engine = await openTinyEngine(await persistentFolder(), { maxNumSeqs: 1 }, ENDLESS);
});
afterAll(() => engine.dispose());

async function serve(admission: Admission, options: object = {}): Promise<RunningServer> {
  const server = await listen(express().use(readMe.api({ engine, admission, ...options })));
  onTestFinished(() => server[Symbol.asyncDispose]());
  return server;
}

function withPolicy(policy: () => never): Admission {
  return new Admission({ policy });
}

function texts(answer: object): readonly string[] {
  return (answer as { readonly choices: readonly { readonly text: string }[] }).choices.map(({ text }) => text);
}

/** Starts a request that occupies a place and the engine until it is aborted. */
async function occupy(server: RunningServer): Promise<void> {
  const queued = new Promise((resolve) => engine.events.once("sequence:queued", resolve));
  const socket = await openSocket(server.port);
  onTestFinished(() => void socket.destroy());
  const body = JSON.stringify({ prompt: "x", max_tokens: ENDLESS_TOKENS, ignore_eos: true, stream: true });
  socket.write(postHead("/v1/completions", body.length) + body);
  await queued;
}

test("admission receives the routes of a request's prompts", async () => {
  const routed: number[][] = [];
  class Remembering extends Admission {
    override enter(entrant: Entrant): Ticket {
      const ticket = super.enter(entrant);
      return {
        ...ticket,
        routed: (experts) => {
          routed.push(Array.from(experts));
          ticket.routed(experts);
        },
      };
    }
  }
  const server = await serve(new Remembering());
  const { status } = await postJson(`${server.url}/v1/completions`, {
    prompt: PROMPTS,
    max_tokens: 5,
    ignore_eos: true,
  });
  expect(status).toBe(200);
  const routes = await Promise.all(PROMPTS.map((prompt) => engine.route(prompt)));
  const expected = routes.map(({ experts }) => Array.from(experts));
  expect(routed.toSorted((a, b) => a.length - b.length)).toEqual(expected.toSorted((a, b) => a.length - b.length));
});

describe("a policy", () => {
  test("sees experts of the request and of others, sets the priority, and leaves the answer unchanged", async () => {
    const seen: RoutedRequest[] = [];
    const policy = (about: RoutedRequest): { priority: number } => {
      seen.push(about);
      return { priority: seen.length };
    };
    const body = { prompt: PROMPTS, max_tokens: 6, ignore_eos: true, temperature: 0 };
    const plain = await serve(new Admission());
    const server = await serve(new Admission({ policy }));
    const { body: expected } = await postJson(`${plain.url}/v1/completions`, body);
    const { body: answer } = await postJson(`${server.url}/v1/completions`, body);
    expect(texts(answer)).toEqual(texts(expected));
    const routes = await Promise.all(PROMPTS.map((prompt) => engine.route(prompt)));
    const experts = routes.flatMap((route) => Array.from(route.experts));
    const expertTokens = engine.info.experts.map((_, expert) => experts.filter((one) => one === expert).length);
    const about = { choices: 2, maxCompletionTokens: 6, promptTokens: experts.length, experts: engine.info.experts };
    expect(seen[0]).toMatchObject({
      ...about,
      expertTokens,
      othersTokens: engine.info.experts.map(() => 0),
      priority: 0,
    });

    await occupy(server);
    const [first, second] = ["Who waits longer", "Who goes first"].map((prompt) => {
      return postJson(`${server.url}/v1/completions`, { prompt, max_tokens: 2, ignore_eos: true });
    });
    await Promise.race([first, second, new Promise((resolve) => engine.events.once("sequence:queued", resolve))]);
    expect(seen[1]?.othersTokens).toEqual(engine.info.experts.map(() => 0));
    expect(seen[2]?.othersTokens.some((count) => count > 0)).toBe(true);
  });

  test("may refuse requests, and its wrong results become server errors", async () => {
    const refusing = await serve(
      withPolicy(() => {
        throw new ApiError({ status: 429, type: "rate_limit_error", code: "expert_busy", message: "Not this one" });
      }),
    );
    const body = { prompt: "x", max_tokens: 2 };
    expect(await postJson(`${refusing.url}/v1/completions`, body)).toMatchObject({
      status: 429,
      body: { error: { code: "expert_busy" } },
    });
    const wrong = await serve(withPolicy(() => ({ priority: NaN }) as never));
    const { status, body: answer } = await postJson(`${wrong.url}/v1/completions`, body);
    expect([status, JSON.stringify(answer).includes("policy")]).toEqual([500, false]);
    const tooLong = { prompt: "x ".repeat(70_000), max_tokens: 2 };
    const fine = await serve(new Admission({ policy: () => undefined }));
    expect(await postJson(`${fine.url}/v1/completions`, tooLong)).toMatchObject({
      status: 400,
      body: { error: { code: "context_length_exceeded", param: "prompt" } },
    });
    expect(() => new Admission({ policy: 1 as never })).toThrow("policy");
  });
});

describe("a full server", () => {
  test("refuses before the body is read, and keeps the connection if the body is small", async () => {
    const admission = new Admission({ maxRequests: 1 });
    const server = await serve(admission);
    await occupy(server);
    const refused = { status: 503, body: { error: { code: "server_overloaded", type: "server_error", param: null } } };
    expect(await postJson(`${server.url}/v1/completions`, { prompt: 7 })).toMatchObject(refused);
    const head = postHead("/v1/completions", 1 << 20).replace("Connection: close", "Connection: keep-alive");
    const socket = await openSocket(server.port);
    socket.write(head);
    const [large] = (await once(socket, "data")) as [Buffer];
    expect(large.toString()).toMatch(/^HTTP\/1\.1 503 [^]*\r\nconnection: close\r\n/i);
    socket.destroy();
    const small = await openSocket(server.port);
    const two = postHead("/v1/completions", 2).replace("Connection: close", "Connection: keep-alive") + "{}";
    for (let time = 0; time < 3; time++) {
      small.write(two);
      const [answer] = (await once(small, "data")) as [Buffer];
      expect(answer.toString()).toMatch(/^HTTP\/1\.1 503 [^]*\r\nretry-after-ms: \d+\r\n/i);
    }
    small.destroy();
    expect(admission.stats.requests).toBe(1);
    // A request whose priority would displace another is not refused early.
    const displacing = await serve(new Admission({ maxRequests: 1, displaceWaiting: true }));
    expect(await postRaw(displacing.port, "/v1/completions", "{")).toContain("invalid_json");
  });
});
