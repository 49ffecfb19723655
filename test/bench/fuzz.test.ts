// Parts of the fuzzer: its seed determines the cases, and its judge finds problems.

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, test } from "vitest";
import { caseOf } from "../../bench/fuzz/cases.ts";
import { documentedCodes } from "../../bench/fuzz/documented.ts";
import { fromJson, toJson, type FuzzCase } from "../../bench/fuzz/fuzz-case.ts";
import { readAnswers } from "../../bench/fuzz/http-answers.ts";
import { mutated } from "../../bench/fuzz/json-mutations.ts";
import { placesOf, textOf, treeOf } from "../../bench/fuzz/json-tree.ts";
import { judge, rulesOf } from "../../bench/fuzz/judge.ts";
import { Chance } from "../../bench/fuzz/chance.ts";
import { openSocket, readAll } from "../support/raw-http.ts";
import { schemaOf } from "../../packages/express/src/http/routes.ts";
import { API_ROUTES } from "../../packages/express/src/routes.ts";

const STORED = { responses: ["resp_1", "resp_2"], items: ["msg_1"], files: ["file-1"], batches: ["batch_1"] };
const MODEL = {
  name: "pocket",
  vocabSize: 4096,
  fillsIn: true,
  experts: ["law", "code"],
  operatorKey: "op",
  stored: STORED,
};
const cases = Array.from({ length: 3000 }, (_, index) => caseOf(5, index, MODEL));

test("a case depends on its two numbers only, and can be stored in a file", () => {
  for (const one of cases.slice(0, 300)) {
    expect(caseOf(5, one.index, MODEL)).toEqual(one);
    expect(fromJson(toJson(one, { problems: [] }))).toEqual({ problems: [], ...one });
  }
  expect(new Set(cases.map(({ kind }) => kind)).size).toBe(13);
});

test("valid requests reach every route that takes JSON, with bodies that its schema accepts", () => {
  const wanted = API_ROUTES.filter(({ body, part }) => schemaOf(body) && part !== "batches");
  const asked = new Map<string, number>();
  for (const { kind, asks, pieces } of cases) {
    const path = asks[0]?.path ?? "";
    const route = wanted.find((one) => one.path === path || one.aliases?.includes(path));
    const [bytes] = pieces.map((piece) => piece.bytes);
    if (kind !== "valid" || !route || bytes === undefined) continue;
    const sent = JSON.parse(bytes.subarray(bytes.indexOf("\r\n\r\n") + 4).toString()) as unknown;
    const checked = schemaOf(route.body)?.safeParse(route.adapt?.(sent) ?? sent);
    // Names and paths of loras are often wrong, since a wrong one could harm the server.
    expect(checked?.success || route.part === "operators", `${path} ${JSON.stringify(sent)}`).toBe(true);
    asked.set(route.path, (asked.get(route.path) ?? 0) + 1);
  }
  expect([...asked.keys()].toSorted()).toEqual(wanted.map(({ path }) => path).toSorted());
});

test("a tree has the text of its JSON, and mutations do not change the original", () => {
  const value = { a: [1, null, { b: "\ud800", "": true }], c: -0.5, d: [], e: {} };
  const tree = treeOf(value);
  expect(JSON.parse(textOf(tree))).toEqual(value);
  expect(placesOf(tree)).toHaveLength(9);
  const damages = Array.from({ length: 500 }, (_, seed) => textOf(mutated(tree, new Chance(seed))));
  expect(new Set(damages).size).toBeGreaterThan(300);
  expect(JSON.parse(textOf(tree))).toEqual(value);
});

function head(method: string, path: string, more = ""): string {
  return `${method} ${path} HTTP/1.1\r\nHost: x\r\n${more}\r\n`;
}

test("parses answers of Node's server, cut at any place", async () => {
  const server = createServer((request, response) => {
    if (request.url === "/chunks") response.write("one");
    response.end(request.method === "HEAD" ? undefined : "two");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const socket = await openSocket((server.address() as AddressInfo).port);
  socket.write(head("GET", "/chunks") + head("HEAD", "/") + head("GET", "/", "Connection: close\r\n"));
  const bytes = Buffer.from(await readAll(socket), "latin1");
  server.close();
  const methods = ["GET", "HEAD", "GET"];
  const { answers, problem } = readAnswers(bytes, methods, true);
  expect(problem).toBeUndefined();
  expect(answers.map(({ body, isWhole }) => [body.toString(), isWhole])).toEqual([
    ["onetwo", true],
    ["", true],
    ["two", true],
  ]);
  for (let length = 0; length < bytes.length; length++) {
    const cut = readAnswers(bytes.subarray(0, length), methods, false);
    expect(cut.problem).toBeUndefined();
    expect(cut.answers.filter(({ isWhole }) => isWhole).length).toBeLessThan(3);
  }
  expect(readAnswers(Buffer.from("HTTP/1.1 200 OK\r\nA : b\r\n\r\n"), ["GET"], true).problem).toContain("header");
});

function answer(status: number, body: unknown, headers = ""): string {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return `HTTP/1.1 ${status} X\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n${headers}\r\n${text}`;
}

function error(code: string | null, message = "Wrong"): object {
  return {
    error: { message, type: "invalid_request_error", param: null, code },
  };
}

describe("the judge finds", () => {
  const rules = rulesOf(documentedCodes(), ["/srv/models/secret"]);
  const sent: FuzzCase = {
    seed: 1,
    index: 1,
    kind: "valid",
    ending: "wait",
    isSound: true,
    pieces: [],
    asks: [{ method: "POST", path: "/tokenize", id: "mine", isRight: false }],
  };
  const problemsOf = (text: string, more: Partial<FuzzCase> = {}, isEnded = true): readonly string[] =>
    judge({ ...sent, ...more }, { bytes: Buffer.from(text), isEnded, isRefused: false }, rules).problems;
  const tokens = { count: 1, max_model_len: 10, tokens: [1] };

  test("no problem in documented answers", () => {
    expect(problemsOf(answer(200, tokens, "x-request-id: mine\r\n"))).toEqual([]);
    expect(problemsOf(answer(400, error("invalid_json")))).toEqual([]);
    expect(problemsOf(answer(503, error("server_overloaded")))).toEqual([]);
  });

  test.each([
    ["an error without a code", answer(500, error(null))],
    ["a code that is not documented", answer(400, error("strange"))],
    ["HTML", answer(404, "<!DOCTYPE html><pre>Cannot GET</pre>")],
    ["a stack", answer(400, error("invalid_value", "x\n    at run (/srv/app/main.js:3:4)"))],
    ["a path", answer(400, error("invalid_value", "/srv/models/secret/config.json"))],
    ["an echo", answer(400, error("invalid_value", "x".repeat(5000)))],
    ["an answer of another route", answer(200, { status: "alive" })],
    ["an error of another API", answer(400, { error: "Wrong" })],
    ["an answer to another request", answer(200, tokens, "x-request-id: other\r\n")],
    ["a request within a body", answer(400, error("invalid_json"), "x-request-id: smuggled\r\n")],
    ["one answer too many", answer(200, tokens) + answer(200, tokens)],
    ["no answer", ""],
    ["half an answer", answer(200, tokens).slice(0, -3)],
    ["a bare refusal", "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"],
  ])("%s", (_what, text) => {
    expect(problemsOf(text)).not.toEqual([]);
  });

  test("no problem in the errors and streams of Ollama's API, and a stream without its last line", () => {
    const asks = [{ method: "POST", path: "/api/generate" }];
    expect(problemsOf(answer(400, { error: "Wrong" }), { asks })).toEqual([]);
    const [line, last] = [false, true].map((done) =>
      JSON.stringify({ model: "pocket", created_at: "2026-01-01T00:00:00Z", response: "a", done }),
    );
    const [whole, cut] = [`${line}\n ${last}\n`, `${line}\n`].map(
      (text) =>
        `HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: ${text.length}\r\n\r\n${text}`,
    );
    expect(problemsOf(whole ?? "", { asks })).toEqual([]);
    expect(problemsOf(cut ?? "", { asks })).toEqual(["wrong answer: a stream without its end"]);
  });

  test("a valid request that is rejected, and an invalid one that is not", () => {
    const asks = [{ method: "POST", path: "/tokenize", isRight: true }];
    expect(problemsOf(answer(400, error("invalid_value")), { asks })).not.toEqual([]);
    const pieces = [{ bytes: Buffer.from('POST /v1/completions HTTP/1.1\r\n\r\n{"prompt":5}'), waitMs: 0 }];
    const wrong = { kind: "json", asks: [{ method: "POST", path: "/v1/completions" }], pieces };
    expect(problemsOf(answer(200, {}), wrong)).toContain("200 for a body that its schema refuses");
  });

  test("a connection that stays open", () => {
    expect(problemsOf(answer(200, tokens), {}, false)).toEqual(["the connection was not ended in time"]);
  });
});
