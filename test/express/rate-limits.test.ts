// Limits of requests and tokens per minute, over real HTTP, against plain counters.

import express from "express";
import { expect, onTestFinished, test } from "vitest";
import { guard, type GuardOptions } from "../../packages/express/src/edge/guard.ts";
import { localsOf } from "../../packages/express/src/http/request.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { listen } from "../support/served-model.ts";

type Ask = (key: string, tokens: number) => Promise<Response>;

/** Starts a server whose answers spend the tokens of the header `tokens`. */
async function limited(options: Omit<GuardOptions, "keys">): Promise<Ask> {
  const app = express().use(guard({ ...options, keys: ["a", "b"] }));
  app.post("/", (request, response) => {
    localsOf(response).spendTokens?.(Number(request.get("tokens")));
    response.json({});
  });
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return (key, tokens) =>
    fetch(server.url, { method: "POST", headers: { authorization: `Bearer ${key}`, tokens: `${tokens}` } });
}

test("the last request of a limit is answered, and the next one is refused", async () => {
  const ask = await limited({ requestsPerMinute: 3 });
  const statuses: number[] = [];
  for (let count = 0; count < 4; count++) statuses.push((await ask("a", 0)).status);
  expect(statuses).toEqual([200, 200, 200, 429]);
});

test.each([
  [99, 200],
  [100, 429],
  [101, 429],
])("after %i of 100 tokens the next request gets the status %i", async (tokens, status) => {
  const ask = await limited({ tokensPerMinute: 100 });
  expect((await ask("a", tokens)).status).toBe(200);
  expect((await ask("a", 0)).status).toBe(status);
  expect((await ask("b", 0)).status).toBe(200);
});

/** Usage of a key. */
interface Used {
  requests: number;
  tokens: number;
}

test.each([1, 2, 3, 4, 5, 6, 7, 8])("limits match plain counters, for random usage (seed %i)", async (seed) => {
  const random = seededRandom(seed);
  const limits = { requests: 1 + randomInteger(random, 12), tokens: 1 + randomInteger(random, 40) };
  const ask = await limited({ requestsPerMinute: limits.requests, tokensPerMinute: limits.tokens });
  const used: Readonly<Record<string, Used>> = { a: { requests: 0, tokens: 0 }, b: { requests: 0, tokens: 0 } };
  for (let count = 0; count < 30; count++) {
    const [key = "", own] = Object.entries(used)[randomInteger(random, 2)] ?? [];
    if (!own) throw new Error("Expected a key");
    // Often exactly the rest, or one more or less.
    const left = Math.max(1, limits.tokens - own.tokens);
    const tokens = random() < 0.4 ? left - 1 + randomInteger(random, 3) : randomInteger(random, 8);
    const refusal = own.requests >= limits.requests ? "requests" : own.tokens >= limits.tokens ? "tokens" : undefined;
    own.requests++;
    const response = await ask(key, tokens);
    const what = `request ${own.requests} of ${limits.requests}, ${own.tokens} of ${limits.tokens} tokens used`;
    expect(response.status, what).toBe(refusal ? 429 : 200);
    const body = await response.json();
    expect(body, what).toMatchObject(refusal ? { error: { code: "rate_limit_exceeded", type: refusal } } : {});
    const leftRequests = `${Math.max(0, limits.requests - own.requests)}`;
    expect(response.headers.get("x-ratelimit-remaining-requests"), what).toBe(leftRequests);
    if (refusal !== "requests") {
      const leftTokens = `${Math.max(0, limits.tokens - own.tokens)}`;
      expect(response.headers.get("x-ratelimit-remaining-tokens"), what).toBe(leftTokens);
    }
    if (!refusal) own.tokens += tokens;
  }
});
