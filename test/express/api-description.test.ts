// Random requests against the OpenAPI document: allowed ones get documented answers, forbidden ones are refused.

import type { ReadMeEngine } from "@readme-moe/engine";
import { openApiDocument, readMe, ServedModels } from "@readme-moe/express";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import express from "express";
import * as fc from "../support/fast-check.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { valueOf, type JsonSchema } from "../support/schema-arbitrary.ts";
import { parseEvents } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const NUM_RUNS = Number(process.env["README_MOE_FUZZ_RUNS"] ?? 80);

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  engine = await openTinyEngine(folder);
  const app = express();
  app.use(readMe({ models: { tiny: engine } }));
  server = await listen(app);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const { schemas } = openApiDocument().components;
const ajv = new Ajv2020({ strict: false });
const validators = new Map(Object.entries(schemas).map(([name, schema]) => [name, ajv.compile(schema)]));

function validator(name: string): ValidateFunction {
  const found = validators.get(name);
  if (!found) throw new Error(`Expected the description to have ${name}`);
  return found;
}

function expectValid(name: string, value: unknown): void {
  const validate = validator(name);
  if (!validate(value)) throw new Error(`${name}: ${ajv.errorsText(validate.errors)} in ${JSON.stringify(value)}`);
}

const endpoints = [
  { path: "/v1/chat/completions", request: "ChatCompletionRequest", answer: "ChatCompletion", error: "Error" },
  { path: "/v1/completions", request: "CompletionRequest", answer: "Completion", error: "Error" },
  { path: "/v1/responses", request: "ResponseRequest", answer: "Response", error: "Error" },
  { path: "/v1/messages", request: "MessageRequest", answer: "Message", error: "MessagesError" },
  {
    path: "/v1/messages/count_tokens",
    request: "CountTokensRequest",
    answer: "CountTokensAnswer",
    error: "MessagesError",
  },
  { path: "/tokenize", request: "TokenizeRequest", answer: "TokenizeAnswer", error: "Error" },
  { path: "/detokenize", request: "DetokenizeRequest", answer: "DetokenizeAnswer", error: "Error" },
] as const;

type Body = Record<string, unknown>;

async function post(path: string, body: unknown): Promise<{ status: number; type: string; text: string }> {
  const response = await fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return { status: response.status, type: response.headers.get("content-type") ?? "", text: await response.text() };
}

/** Reduces a body's work and, if `tame`, removes values that only the tiny model does not support. */
function adjusted(body: Body, isTame: boolean): Body {
  const few = { ...body };
  const generates = "messages" in body || "prompt" in body || "input" in body;
  for (const name of ["max_tokens", "max_completion_tokens", "max_output_tokens"]) {
    if (typeof few[name] === "number") few[name] = (few[name] % 3) + 1;
  }
  if (typeof few["n"] === "number") few["n"] = (few["n"] % 2) + 1;
  if (!isTame) return few;
  const inVocabulary = (value: unknown): unknown => {
    if (typeof value === "number") return value % 4096;
    return Array.isArray(value) ? value.map(inVocabulary) : value;
  };
  for (const name of ["prompt", "tokens", "stop_token_ids"]) if (name in few) few[name] = inVocabulary(few[name]);
  if (generates) delete few["model"];
  for (const name of [
    "min_tokens",
    "top_logprobs",
    "logit_bias",
    "tools",
    "tool_choice",
    "response_format",
    "read_me",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
    "structured_outputs",
    "text",
    "output_config",
    "thinking",
    "previous_response_id",
    "include",
  ]) {
    delete few[name];
  }
  return few;
}

describe.each(endpoints)("$path", ({ path, request, answer, error: errorName }) => {
  const requests = fc
    .tuple(valueOf(schemas[request] as JsonSchema), fc.boolean())
    .map(([body, isTame]) => adjusted(body as Body, isTame));

  test("gives documented answers to allowed requests or refuses them by parameter", async () => {
    const statuses = new Map<number, number>();
    await fc.assert(
      fc.asyncProperty(requests, async (body) => {
        expectValid(request, body);
        const { status, type, text } = await post(path, limited(path, body));
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        if (status === 200 && type.startsWith("text/event-stream")) {
          const { data } = parseEvents(text);
          const isNamed = path === "/v1/responses" || path === "/v1/messages";
          if (!isNamed) expect(data.at(-1)).toBe("[DONE]");
          for (const one of isNamed ? data : data.slice(0, -1)) expectValid(`${answer}Chunk`, JSON.parse(one));
          return;
        }
        expectValid(status === 200 ? answer : errorName, JSON.parse(text));
        const mayMiss = typeof body["model"] === "string" || JSON.stringify(body).includes("item_reference");
        expect([200, 400, ...(mayMiss ? [404] : [])]).toContain(status);
      }),
      { numRuns: NUM_RUNS, endOnFailure: true },
    );
    expect(statuses.get(200)).toBeGreaterThan(NUM_RUNS / 10);
  });

  test("refuses forbidden requests by parameter", async () => {
    const validate = validator(request);
    const names = fc.constantFrom(...propertyNames(schemas[request] as JsonSchema), "unheard_of");
    const wrong = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom(-1e18, 0.5, "", [], {}, [[]], true, "\0"));
    await fc.assert(
      fc.asyncProperty(requests, names, wrong, async (body, name, value) => {
        const spoilt = { ...body, [name]: value };
        // This name is refused first, wherever it is.
        fc.pre(!JSON.stringify(spoilt).includes("__proto__"));
        if (!validate(body) || validate(JSON.parse(JSON.stringify(spoilt)))) fc.pre(false);
        const { status, text } = await post(path, spoilt);
        const { error } = JSON.parse(text) as { error: { type: string; param: string; code: string } };
        expectValid(errorName, JSON.parse(text));
        expect([status, error.type]).toEqual([400, "invalid_request_error"]);
        expect(["invalid_value", "unsupported_parameter", "missing_required_parameter"]).toContain(error.code);
        // If no alternative fits, the error names the whole field.
        if (!("anyOf" in (schemas[request] as JsonSchema))) expect(error.param.split(/[.[]/)[0]).toBe(name);
      }),
      { numRuns: NUM_RUNS, endOnFailure: true },
    );
  });
});

/** Completions without a limit have 16 tokens, and chats fill the context. */
function limited(path: string, body: Body): Body {
  if (path === "/v1/responses") return { ...body, max_output_tokens: body["max_output_tokens"] ?? 2 };
  return path === "/v1/chat/completions" ? { ...body, max_tokens: body["max_tokens"] ?? 2 } : body;
}

function propertyNames({ properties, anyOf = [] }: JsonSchema): readonly string[] {
  return properties ? Object.keys(properties) : anyOf.flatMap(propertyNames);
}

test("the document is served and contains every route", async () => {
  const served: unknown = await (await fetch(`${server.url}/openapi.json`)).json();
  expect(served).toEqual(openApiDocument());
  expect(served).toMatchObject({ openapi: "3.1.0" });
  for (const path of Object.keys(openApiDocument().paths)) {
    const response = await fetch(`${server.url}${path.replace("{id}", "tiny")}`);
    const isKept = path.startsWith("/v1/responses/");
    expect([200, 405, ...(isKept ? [404] : [])], path).toContain(response.status);
    if (isKept && response.status === 404) {
      expect(await response.json()).toMatchObject({ error: { code: "response_not_found" } });
    }
  }
});

test("operations routes give documented answers, including failures", async () => {
  const models = new ServedModels({ tiny: engine, other: new Promise<never>(() => undefined) });
  await using waiting = await listen(express().use(readMe({ models })));
  const probes = { "/health": "Health", "/readyz": "Readiness", "/livez": "Liveness", "/version": "Version" };
  const statuses = new Map<string, number[]>();
  for (const [path, name] of Object.entries(probes)) {
    for (const { url } of [server, waiting]) {
      const response = await fetch(`${url}${path}`);
      expectValid(response.status === 200 ? name : "Unavailable", await response.json());
      statuses.set(path, [...(statuses.get(path) ?? []), response.status]);
    }
  }
  expect(Object.fromEntries(statuses)).toEqual({
    "/health": [200, 503],
    "/readyz": [200, 200],
    "/livez": [200, 200],
    "/version": [200, 200],
  });
});
