// Request ids, keys and rate limits in front of the API, over real HTTP.

import { ReadMeEmitter, type ReadMeEvents } from "@readme-moe/core";
import { ApiError } from "@readme-moe/express";
import express from "express";
import * as fc from "../support/fast-check.ts";
import { describe, expect, onTestFinished, test } from "vitest";
import { guard, KeyRing, type GuardOptions } from "../../packages/express/src/edge/guard.ts";
import { durationText, limiterOf } from "../../packages/express/src/edge/rate-limits.ts";
import { localsOf } from "../../packages/express/src/http/request.ts";
import { listen } from "../support/served-model.ts";

type Answered = Parameters<ReadMeEvents["request:answered"]>[0];
type Ask = (headers?: Readonly<Record<string, string>>, method?: string) => Promise<Response>;

const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/** Starts a server that answers with the guard's locals, and spends the tokens of the header `tokens`. */
async function guarded(options: GuardOptions = {}): Promise<{ readonly ask: Ask; readonly url: string }> {
  const app = express();
  app.set("trust proxy", true);
  app.use(guard(options));
  app.all("/echo/:id", (request, response) => {
    const { key, requestId, traceparent, spendTokens } = localsOf(response);
    spendTokens?.(Number(request.get("tokens") ?? 0));
    response.json({ key, requestId, traceparent });
  });
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return {
    url: server.url,
    ask: (headers = {}, method = "POST") => fetch(`${server.url}/echo/1`, { method, headers }),
  };
}

async function errorOf(response: Response): Promise<{ readonly code: string; readonly type: string }> {
  return ((await response.json()) as { readonly error: { readonly code: string; readonly type: string } }).error;
}

describe("ids", () => {
  test("a client's own id and trace reach the handler and are sent back", async () => {
    const { ask } = await guarded();
    const response = await ask({ "x-request-id": "abc-1", traceparent: TRACE });
    expect(response.headers.get("x-request-id")).toBe("abc-1");
    expect(response.headers.get("traceparent")).toBe(TRACE);
    expect(await response.json()).toEqual({ requestId: "abc-1", traceparent: TRACE });
  });

  test.each([
    [{}],
    [{ "x-request-id": "two words", traceparent: "00-0-0-01" }],
    [
      {
        "x-request-id": "a".repeat(129),
        traceparent: TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0".repeat(32)),
      },
    ],
    [{ "x-request-id": "", traceparent: TRACE.replace("00-", "ff-") }],
  ])("what is no id and no trace is not sent back: %j", async (headers) => {
    const { ask } = await guarded();
    const response = await ask(headers);
    expect(response.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(response.headers.get("traceparent")).toBeNull();
  });

  test("emits every answer with its route instead of its path, and status 499 where the client has disconnected", async () => {
    const events = new ReadMeEmitter();
    const answered: Answered[] = [];
    const two = new Promise<void>((resolve) => {
      events.on("request:answered", (event) => {
        if (answered.push(event) === 2) resolve();
      });
    });
    const app = express().use(guard({ events }));
    const client = new AbortController();
    app.post("/echo/:id", (_request, response) => void response.json({}));
    app.post("/never", () => client.abort());
    await using server = await listen(app);
    await fetch(`${server.url}/echo/secret`, { method: "POST", headers: { "x-request-id": "r1" } });
    await expect(fetch(`${server.url}/never`, { method: "POST", signal: client.signal })).rejects.toThrow("abort");
    await two;
    expect(answered[0]).toMatchObject({ requestId: "r1", method: "POST", handler: "/echo/:id", status: 200 });
    expect(answered[1]).toMatchObject({ handler: "/never", status: 499 });
    expect(answered[0]?.durationMs).toBeGreaterThan(0);
  });

  test("two guards in a row emit an answer once", async () => {
    const events = new ReadMeEmitter();
    let count = 0;
    events.on("request:answered", () => void count++);
    const app = express().use(guard({ events, authorize: () => "me" }), guard({ events }));
    app.post("/", (_request, response) => void response.json({ key: localsOf(response).key }));
    await using server = await listen(app);
    expect(await (await fetch(server.url, { method: "POST" })).json()).toEqual({ key: "me" });
    await fetch(server.url, { method: "POST" });
    expect(count).toBe(2);
  });
});

describe("keys", () => {
  test("the handler gets the key's name, for the right key only", async () => {
    const { ask } = await guarded({ keys: { alice: "sk-aaaa", bob: "sk-bbbb" } });
    const named = await ask({ authorization: "Bearer sk-bbbb" });
    expect(await named.json()).toMatchObject({ key: "bob" });
    expect((await ask({ authorization: "bearer  sk-aaaa" })).status).toBe(200);
    for (const authorization of [
      "",
      "Bearer",
      "Bearer ",
      "Bearer sk-aaa",
      "Bearer sk-aaaaa",
      "Basic sk-aaaa",
      "sk-aaaa",
    ]) {
      const response = await ask({ authorization });
      expect(response.status, authorization).toBe(401);
      expect(response.headers.get("www-authenticate")).toBe("Bearer");
      expect(response.headers.get("x-request-id")).not.toBeNull();
      expect(await errorOf(response)).toMatchObject({ code: "invalid_api_key", type: "invalid_request_error" });
    }
  });

  test("compares every key, always with the same length", () => {
    const compared: [number, number][] = [];
    const equal = (a: Buffer, b: Buffer): boolean => {
      compared.push([a.length, b.length]);
      return a.equals(b);
    };
    const keys = ["first", "a-much-longer-second-key", "third"];
    const ring = new KeyRing(keys, equal);
    for (const presented of [...keys, "", "x", "firs", "x".repeat(10_000), "schlüssel"]) {
      compared.length = 0;
      expect(ring.nameOf(presented)).toBe(keys.includes(presented) ? `key-${keys.indexOf(presented) + 1}` : undefined);
      expect(compared).toEqual(keys.map(() => [32, 32]));
    }
  });

  test("finds its keys and no others", () => {
    const key = fc.string({ unit: fc.constantFrom("a", "b", "A", "-", "_", "1"), minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(fc.uniqueArray(key, { minLength: 1, maxLength: 8 }), fc.string(), key, (keys, any, near) => {
        const ring = new KeyRing(keys);
        for (const presented of [...keys, any, near]) {
          const index = keys.indexOf(presented);
          expect(ring.nameOf(presented)).toBe(index < 0 ? undefined : `key-${index + 1}`);
        }
      }),
    );
  });

  test.each([[[]], [[""]], [["a", "a"]], [["a b"]], [{ a: 1 }]])(
    "refuses wrong keys without showing them: %j",
    (keys) => {
      expect(() => guard({ keys: keys as readonly string[] })).toThrow(/^Expected (?!.*a b)/);
    },
  );

  test("a function decides, synchronously or not, and a thrown ApiError is the answer", async () => {
    const { ask } = await guarded({
      authorize: async (request) => {
        await Promise.resolve();
        const who = request.get("who");
        if (who === "banned") throw new ApiError({ status: 403, type: "permission_error", message: "Not you." });
        if (who === "broken") throw new Error("secret reason");
        return who === "guest" ? true : who;
      },
    });
    expect(await (await ask({ who: "eve" })).json()).toMatchObject({ key: "eve" });
    expect(await (await ask({ who: "guest" })).json()).not.toHaveProperty("key");
    expect((await ask()).status).toBe(401);
    expect((await ask({ who: "banned" })).status).toBe(403);
    const broken = await ask({ who: "broken" });
    expect(broken.status).toBe(500);
    expect(await broken.text()).not.toContain("secret");
  });

  test.each(["", undefined, false, null, 0, 1, { name: "eve" }])(
    "a function that returns %j refuses the request",
    async (answer) => {
      const handled: unknown[] = [];
      for (const given of [answer, Promise.resolve(answer)]) {
        const app = express().use(guard({ authorize: () => given as string, requestsPerMinute: 1 }));
        app.post("/", (_request, response) => {
          handled.push(localsOf(response).key);
          response.end();
        });
        await using server = await listen(app);
        // Refused requests do not count against the limit.
        for (let round = 0; round < 2; round++) {
          const response = await fetch(server.url, { method: "POST", headers: { authorization: "Bearer x" } });
          expect(response.status).toBe(401);
          expect(response.headers.get("www-authenticate")).toBe("Bearer");
          expect(await errorOf(response)).toMatchObject({ code: "invalid_api_key" });
        }
      }
      expect(handled).toEqual([]);
    },
  );

  test("refuses keys together with a function, and unknown options", () => {
    expect(() => guard({ keys: ["a"], authorize: () => true })).toThrow("`keys` or `authorize`");
    expect(() => guard({ key: ["a"] } as GuardOptions)).toThrow("did you mean `keys`");
    expect(() => guard({ requestsPerMinute: 0 })).toThrow("requestsPerMinute");
  });
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
    expect(await response.text()).not.toContain("secret");
  });

  test.each([
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
