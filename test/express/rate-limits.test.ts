// Limits of requests and tokens per minute, over real HTTP, against plain counters.

import express from "express";
import { describe, expect, onTestFinished, test } from "vitest";
import { durationText, guard, type GuardOptions, limiterOf } from "../../packages/express/src/edge/guard.ts";
import { localsOf } from "../../packages/express/src/http/request.ts";
import { errorOf, guarded } from "../support/guarded-server.ts";
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

function remaining({ headers }: Response, unit: string): readonly (string | null)[] {
  return ["limit", "remaining"].map((name) => headers.get(`x-ratelimit-${name}-${unit}`));
}

describe("limits", () => {
  test("limits a key's requests per minute and reports how many are left", async () => {
    const { ask } = await guarded({ keys: ["a", "b"], requestsPerMinute: 2 });
    const [asA, asB] = [{ authorization: "Bearer a" }, { authorization: "Bearer b" }];
    expect(remaining(await ask(asA), "requests")).toEqual(["2", "1"]);
    expect(remaining(await ask(asA), "requests")).toEqual(["2", "0"]);
    expect((await ask(asA, "GET")).status).toBe(200);
    const refused = await ask(asA);
    expect(refused.status).toBe(429);
    expect(remaining(refused, "requests")).toEqual(["2", "0"]);
    expect(refused.headers.get("x-ratelimit-reset-requests")).toMatch(/^(\d+s|1m0s)$/);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(Number(refused.headers.get("retry-after"))).toBeLessThanOrEqual(60);
    expect(Number(refused.headers.get("retry-after-ms"))).toBeLessThanOrEqual(60_000);
    expect(await errorOf(refused)).toMatchObject({ code: "rate_limit_exceeded", type: "requests" });
    expect((await ask(asB)).status).toBe(200);
  });

  test("limits a key's tokens per minute, counted when they are known", async () => {
    const { ask } = await guarded({ keys: ["a", "b"], tokensPerMinute: 100 });
    const asA = { authorization: "Bearer a" };
    expect(remaining(await ask({ ...asA, tokens: "60" }), "tokens")).toEqual(["100", "100"]);
    expect(remaining(await ask({ ...asA, tokens: "60" }), "tokens")).toEqual(["100", "40"]);
    const refused = await ask(asA);
    expect([refused.status, ...remaining(refused, "tokens")]).toEqual([429, "100", "0"]);
    expect(await errorOf(refused)).toMatchObject({ code: "rate_limit_exceeded", type: "tokens" });
    expect((await ask({ authorization: "Bearer b" })).status).toBe(200);
  });

  test("limits addresses without keys, and those of a trusted proxy's clients", async () => {
    const { ask } = await guarded({ requestsPerMinute: 1 });
    const status = async (address: string): Promise<number> => (await ask({ "x-forwarded-for": address })).status;
    expect([await status("192.0.2.1"), await status("192.0.2.1"), await status("192.0.2.2")]).toEqual([200, 429, 200]);
  });

  test("a key's name cannot pass for an address", async () => {
    const limiter = limiterOf("shared", 1);
    const byKey = await guarded({ authorize: () => "address:127.0.0.1", requestsPerMinute: limiter });
    const byAddress = await guarded({ requestsPerMinute: limiter });
    const headers = { "x-forwarded-for": "127.0.0.1" };
    expect([(await byKey.ask(headers)).status, (await byAddress.ask(headers)).status]).toEqual([200, 200]);
  });

  test("two servers share a store", async () => {
    const limiter = limiterOf("shared", 1);
    const [one, other] = [await guarded({ requestsPerMinute: limiter }), await guarded({ requestsPerMinute: limiter })];
    const headers = { "x-forwarded-for": "192.0.2.1" };
    expect([(await one.ask(headers)).status, (await other.ask(headers)).status]).toEqual([200, 429]);
  });

  test("refuses requests with 503 when the store fails", async () => {
    const limiter = limiterOf("broken", 5);
    limiter.consume = () => Promise.reject(new Error("secret address refused"));
    const { ask } = await guarded({ requestsPerMinute: limiter });
    const response = await ask();
    expect(response.status).toBe(503);
    expect(response.headers.get("retry-after")).toBe("1");
    expect(response.headers.get("retry-after-ms")).toBe("1000");
    expect(await response.json()).toEqual({
      error: {
        message: "Rate limits cannot be checked at the moment; try again later.",
        type: "server_error",
        param: null,
        code: "rate_limiter_unavailable",
      },
    });
  });

  test("a store that fails to count tokens fails no answer", async () => {
    const limiter = limiterOf("forgetful", 5);
    limiter.penalty = () => Promise.reject(new Error("secret address refused"));
    const { ask } = await guarded({ tokensPerMinute: limiter });
    expect((await ask({ tokens: "3" })).status).toBe(200);
    expect(remaining(await ask(), "tokens")).toEqual(["5", "5"]);
  });

  test("reads have a limit of their own, use up no requests, and need no tokens", async () => {
    const { ask } = await guarded({ requestsPerMinute: 2, tokensPerMinute: 1 });
    for (let count = 0; count < 3; count++) {
      const preflight = await ask({}, "OPTIONS");
      expect([preflight.status, ...remaining(preflight, "requests")]).toEqual([200, null, null]);
    }
    expect((await ask({ tokens: "1" })).status).toBe(200);
    const outcomes = [];
    for (const method of ["GET", "HEAD", "GET", "HEAD"]) {
      const read = await ask({}, method);
      outcomes.push([read.status, ...remaining(read, "requests"), ...remaining(read, "tokens")]);
    }
    expect(outcomes).toEqual([
      [200, "2", "1", null, null],
      [200, "2", "0", null, null],
      [429, "2", "0", null, null],
      [429, "2", "0", null, null],
    ]);
    const refused = await ask();
    expect([refused.status, await errorOf(refused)]).toMatchObject([429, { type: "tokens" }]);
  });

  test("what a request has left, and until when, is in headers of both units", async () => {
    const { ask } = await guarded({ requestsPerMinute: 3, tokensPerMinute: 10 });
    const first = await ask({ tokens: "4" });
    expect([...remaining(first, "requests"), ...remaining(first, "tokens")]).toEqual(["3", "2", "10", "10"]);
    expect(first.headers.get("x-ratelimit-reset-requests")).toMatch(/^(5\ds|1m0s)$/);
    expect(first.headers.get("x-ratelimit-reset-tokens")).toBe("0ms");
    const second = await ask({ tokens: "7" });
    expect([...remaining(second, "requests"), ...remaining(second, "tokens")]).toEqual(["3", "1", "10", "6"]);
    expect(second.headers.get("x-ratelimit-reset-tokens")).toMatch(/^(5\ds|1m0s)$/);
    const refused = await ask();
    expect([refused.status, ...remaining(refused, "requests"), ...remaining(refused, "tokens")]).toEqual([
      429,
      "3",
      "0",
      "10",
      "0",
    ]);
    expect(await refused.json()).toMatchObject({
      error: {
        message: expect.stringMatching(
          /^Rate limit reached: 10 tokens per minute\. Try again in (5\ds|1m0s)\.$/,
        ) as unknown,
      },
    });
  });

  test.each([
    [-5, "0ms"],
    [999, "999ms"],
    [999.01, "1s"],
    [1001, "2s"],
    [60_000, "1m0s"],
    [3_599_999, "1h0m0s"],
    [7_384_000, "2h3m4s"],
    [0, "0ms"],
    [119.2, "120ms"],
    [999.5, "1s"],
    [1000, "1s"],
    [59_001, "1m0s"],
    [360_000, "6m0s"],
    [3_723_000, "1h2m3s"],
  ])("%d ms is written as %s", (ms, text) => {
    expect(durationText(ms)).toBe(text);
  });
});
