// Request ids, keys and rate limits in front of the API, over real HTTP.

import { ReadMeEmitter, type ReadMeEvents } from "@readme-moe/core";
import { ApiError } from "@readme-moe/express";
import express from "express";
import * as fc from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import { guard, KeyRing } from "../../packages/express/src/edge/guard.ts";
import { localsOf } from "../../packages/express/src/http/request.ts";
import { errorOf, guarded } from "../support/guarded-server.ts";
import { listen } from "../support/served-model.ts";

type Answered = Parameters<ReadMeEvents["request:answered"]>[0];
const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

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

  test.each([
    [TRACE, true],
    ["00-00000000000000000000000000000001-0000000000000001-00", true],
    ["01" + TRACE.slice(2), true],
    ["fe" + TRACE.slice(2) + "-more", true],
    ["01" + TRACE.slice(2) + "-" + "x".repeat(200), true],
    ["01" + TRACE.slice(2) + "-" + "x".repeat(201), false],
    ["01" + TRACE.slice(2) + "more", false],
    ["01" + TRACE.slice(2) + "-mo re", false],
    ["01" + TRACE.slice(2).replace(/[0-9a-f]{32}/, "0".repeat(32)), false],
    ["01" + TRACE.slice(2).replace(/[0-9a-f]{16}-01/, `${"0".repeat(16)}-01`), false],
    [TRACE + "-more", false],
    ["x" + TRACE, false],
    [TRACE.toUpperCase(), false],
    [TRACE.replace(/[0-9a-f]{16}-01/, `${"0".repeat(16)}-01`), false],
    [TRACE.slice(0, -1), false],
    [TRACE + "0", false],
    ["ff" + TRACE.slice(2), false],
  ])("the trace %s is kept: %j", async (traceparent, isKept) => {
    const { ask } = await guarded();
    const response = await ask({ traceparent });
    expect(response.headers.get("traceparent")).toBe(isKept ? traceparent : null);
    expect(((await response.json()) as { readonly traceparent?: string }).traceparent).toBe(
      isKept ? traceparent : undefined,
    );
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
    expect(answered[0]?.durationMs).toBeLessThan(performance.now());
  });

  test("emits the key, the trace and the mounting path of a route, and no path of what has no route", async () => {
    const events = new ReadMeEmitter();
    const answered: Answered[] = [];
    events.on("request:answered", (event) => answered.push(event));
    const router = express.Router().get(/^\/by-pattern$/, (_request, response) => void response.json({}));
    router.get("/echo/:id", (_request, response) => void response.json({}));
    const app = express()
      .use(guard({ events, keys: { alice: "sk-a" } }))
      .use("/v1", router);
    const server = await listen(app);
    const headers = { authorization: "Bearer sk-a", traceparent: TRACE };
    for (const path of ["/v1/echo/secret", "/v1/by-pattern", "/secret"]) await fetch(server.url + path, { headers });
    await fetch(server.url);
    await server[Symbol.asyncDispose]();
    expect(answered).toMatchObject([
      { key: "alice", traceparent: TRACE, method: "GET", handler: "/v1/echo/:id", status: 200 },
      { key: "alice", traceparent: TRACE, method: "GET", handler: "none", status: 200 },
      { key: "alice", traceparent: TRACE, method: "GET", handler: "none", status: 404 },
      { key: undefined, traceparent: undefined, method: "GET", handler: "none", status: 401 },
    ]);
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

  test.each([
    [[], "Expected `keys` to have at least one key"],
    [{}, "Expected `keys` to have at least one key"],
    [["x", ""], "Expected key `key-2` to be a non-empty string"],
    [{ ann: 1 }, "Expected key `ann` to be a non-empty string"],
    [["a", "a"], "Expected `keys` to be distinct"],
    [{ ann: "a", bob: "a" }, "Expected `keys` to be distinct"],
    [["a b"], "Expected key `key-1` to have printable ASCII characters only"],
    [["a\u007f"], "Expected key `key-1` to have printable ASCII characters only"],
    [["ä"], "Expected key `key-1` to have printable ASCII characters only"],
  ])("refuses wrong keys without showing them: %j", (keys, message) => {
    expect(() => guard({ keys: keys as readonly string[] })).toThrow(new TypeError(message));
  });

  test("tells an absent key from a wrong one", async () => {
    const { ask } = await guarded({ keys: ["sk-a"] });
    expect(await (await ask()).json()).toMatchObject({
      error: { message: expect.stringContaining("didn't provide an API key") as unknown },
    });
    for (const authorization of ["Bearer sk-b", "Bearer !~"]) {
      expect(await (await ask({ authorization })).json()).toMatchObject({
        error: { message: expect.stringContaining("Incorrect API key") as unknown },
      });
    }
    for (const authorization of ["xBearer sk-a", "Bearer sk-a b", "Bearersk-a"]) {
      expect((await ask({ authorization })).status, authorization).toBe(401);
    }
    expect((await ask({ authorization: "BEARER sk-a  " })).status).toBe(200);
  });

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

  test("refuses keys together with a function, and wrong limits", () => {
    expect(() => guard({ keys: ["a"], authorize: () => true })).toThrow("`keys` or `authorize`");
    expect(() => guard({ authorize: "me" as unknown as () => true })).toThrow("Expected `authorize` to be a function");
    expect(() => guard({ requestsPerMinute: 0 })).toThrow("requestsPerMinute");
    expect(() => guard({ tokensPerMinute: 0.5 })).toThrow("tokensPerMinute");
  });
});
