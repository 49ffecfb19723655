// Requests of web pages from other origins.

import express from "express";
import type { CorsOptions } from "@readme-moe/express";
import { expect, onTestFinished, test } from "vitest";
import { cors } from "../../packages/express/src/edge/guard.ts";
import { readMe } from "../support/border.ts";
import { chunkOf, chunksInTurns, scriptedEngine, USAGE } from "../support/scripted-engine.ts";
import { listen } from "../support/served-model.ts";

const PAGE = "https://app.example.com";

async function serve(options: CorsOptions | undefined): Promise<string> {
  const script = chunksInTurns(chunkOf(0, "a", { finishReason: "length", usage: USAGE }));
  const app = express().use(readMe({ engine: scriptedEngine(script), keys: ["secret"], cors: options }));
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return `${server.url}/v1/completions`;
}

const preflight = (url: string, origin: string): Promise<Response> =>
  fetch(url, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization,content-type,x-stainless-os",
    },
  });

const post = (url: string, origin: string, key = "secret"): Promise<Response> =>
  fetch(url, {
    method: "POST",
    headers: { origin, "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ prompt: "x", max_tokens: 1 }),
  });

const allowed = (response: Response): string | null => response.headers.get("access-control-allow-origin");

test("pages get no permission by default", async () => {
  const url = await serve(undefined);
  expect(allowed(await preflight(url, PAGE))).toBeNull();
  expect(allowed(await post(url, PAGE))).toBeNull();
});

test("named pages may send requests and read answers and errors, others not", async () => {
  const url = await serve({ origins: [PAGE, "http://localhost:5173"] });
  const asked = await preflight(url, PAGE);
  expect([asked.status, allowed(asked)]).toEqual([204, PAGE]);
  expect(asked.headers.get("access-control-allow-headers")).toBe("authorization,content-type,x-stainless-os");
  expect(asked.headers.get("access-control-allow-methods")).toContain("POST");
  expect(asked.headers.get("access-control-allow-credentials")).toBeNull();
  const answer = await post(url, PAGE);
  expect([answer.status, allowed(answer)]).toEqual([200, PAGE]);
  expect(answer.headers.get("vary")).toContain("Origin");
  expect(answer.headers.get("access-control-expose-headers")).toContain("x-request-id");
  const refused = await post(url, PAGE, "wrong");
  expect([refused.status, allowed(refused)]).toEqual([401, PAGE]);
  for (const origin of ["https://evil.example.com", `${PAGE}.evil.com`, "null", "https://app.example.com:444"]) {
    // A preflight without permission needs a key, like any other request.
    const other = await preflight(url, origin);
    expect([other.status, allowed(other)]).toEqual([401, null]);
    expect(allowed(await post(url, origin))).toBeNull();
  }
});

test("every page gets permission only if that is asked for, and still needs a key", async () => {
  const url = await serve({ origins: "*" });
  expect(allowed(await preflight(url, PAGE))).toBe("*");
  const refused = await post(url, PAGE, "wrong");
  expect([refused.status, allowed(refused)]).toEqual([401, "*"]);
});

test.each([
  [{ origins: [] }],
  [{ origins: "https://a.com" }],
  [{ origins: ["https://a.com/"] }],
  [{ origins: ["a.com"] }],
  [{ origins: ["*"] }],
  [{ origins: [PAGE], maxAgeSeconds: -1 }],
  [{ origins: [PAGE], credentials: true }],
])("wrong options are refused: %j", (options) => {
  expect(() => cors(options as unknown as CorsOptions)).toThrow(/Expected|Unknown|cors/);
});
