// Tests over real HTTP that clients share the cached beginnings of prompts only where they may.

import type { GenerateRequest } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, type ReadMeOptions } from "@readme-moe/express";
import express from "express";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { acceptTen, chunkOf, scriptedEngine, USAGE } from "../support/scripted-engine.ts";
import { listen, openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let engine: ReadMeEngine;
let numSecrets = 0;

beforeAll(async () => {
  engine = await openTinyEngine(
    await persistentFolder(),
    { chunkTokens: 64 },
    { config: { max_position_embeddings: 2048 } },
  );
  return () => engine.dispose();
});

const KEYS = { ann: "a", bob: "b" };
const GUESSES = [411, 412, 413, 414, 415, 416, 417, 418, 419, 420];
const SECRET = 417;

interface Client {
  /** Key, or address where there are no keys. */
  readonly key?: string;
  readonly address?: string;
}

type Ask = (prompt: string, client: Client) => Promise<number>;

/** Serves the engine. @returns what asks for a completion, and returns its `cached_tokens` */
async function serve(options: ReadMeOptions): Promise<Ask> {
  const app = express()
    .set("trust proxy", true)
    .use(readMe({ engine, ...options }));
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return async (prompt, { key, address }) => {
    const response = await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
        ...(address === undefined ? {} : { "x-forwarded-for": address }),
      },
      body: JSON.stringify({ prompt, max_tokens: 2, temperature: 0 }),
    });
    const { usage } = (await response.json()) as {
      readonly usage?: { readonly prompt_tokens_details: { readonly cached_tokens: number } };
    };
    return usage?.prompt_tokens_details.cached_tokens ?? -1;
  };
}

/** Writes the beginning of a prompt with a secret in its first chunk. Each round has another one. */
const secretOf = (round: number, guess: number): string =>
  `${round}. The code is ${guess}. ${"It is a long day. ".repeat(12)}`;

/** One client sends a secret twice, and another one guesses it. */
async function guessed(ask: Ask, owner: Client, other: Client) {
  const round = numSecrets++;
  const first = await ask(secretOf(round, SECRET), owner);
  const again = await ask(secretOf(round, SECRET), owner);
  const found: number[] = [];
  for (const guess of GUESSES) if ((await ask(secretOf(round, guess), other)) > 0) found.push(guess);
  return { first, isOwnCached: again > 0, found };
}

describe("a client that guesses another one's prompt", () => {
  const [ann, bob] = [{ key: KEYS.ann }, { key: KEYS.bob }];

  test("finds nothing with another key, while own prompts are cached", async () => {
    const ask = await serve({ keys: KEYS });
    expect(await guessed(ask, ann, bob)).toEqual({ first: 0, isOwnCached: true, found: [] });
    expect(await guessed(ask, bob, ann)).toEqual({ first: 0, isOwnCached: true, found: [] });
  });

  test("finds it where the operator shares", async () => {
    const ask = await serve({ keys: KEYS, cacheSharing: "all" });
    expect(await guessed(ask, ann, bob)).toEqual({ first: 0, isOwnCached: true, found: [SECRET] });
  });

  test("finds it without keys, unless the operator keeps addresses apart", async () => {
    const [one, two] = [{ address: "192.0.2.1" }, { address: "192.0.2.2" }];
    expect(await guessed(await serve({}), one, two)).toEqual({ first: 0, isOwnCached: true, found: [SECRET] });
    const apart = await serve({ cacheSharing: "client" });
    expect(await guessed(apart, one, two)).toEqual({ first: 0, isOwnCached: true, found: [] });
  });

  test("finds what the operator keeps for all", async () => {
    const ask = await serve({ keys: KEYS });
    const text = secretOf(numSecrets++, 1);
    const kept = await engine.keepPrompt(text);
    expect([await ask(text, ann), await ask(text, bob)]).toEqual([kept.keptTokens, kept.keptTokens]);
    await kept.release();
  });
});

test("the engine gets the salt of a request's key from every API", async () => {
  const seen: GenerateRequest[] = [];
  const scripted = scriptedEngine({
    async *answer(request) {
      seen.push(request);
      yield chunkOf(0, "a", { finishReason: "length", usage: USAGE });
    },
    accept: acceptTen,
  });
  const server = await listen(express().use(readMe({ engine: scripted, keys: KEYS, ollama: true })));
  onTestFinished(() => server[Symbol.asyncDispose]());
  const messages = [{ role: "user", content: "x" }];
  const bodies = {
    "/v1/completions": { prompt: ["x", "y"] },
    "/v1/chat/completions": { messages },
    "/v1/responses": { input: "x" },
    "/v1/messages": { messages, max_tokens: 3 },
    "/api/chat": { messages, stream: false },
    "/api/generate": { prompt: "x", stream: false },
  };
  for (const [path, body] of Object.entries(bodies)) {
    for (const [name, key] of Object.entries(KEYS)) {
      const response = await fetch(server.url + path, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
        body: JSON.stringify({ model: "scripted", ...body }),
      });
      expect([path, response.status]).toEqual([path, 200]);
      const salts = seen.splice(0).map(({ cacheSalt }) => cacheSalt);
      expect([path, new Set(salts)]).toEqual([path, new Set([`key:${name}`])]);
    }
  }
});

test.each([["yes"], [true], [null]])("%j is refused as the choice of who shares", (cacheSharing) => {
  expect(() => readMe({ engine, cacheSharing: cacheSharing as never })).toThrow(
    /^Expected `cacheSharing` to be "client" or "all", got /,
  );
});
