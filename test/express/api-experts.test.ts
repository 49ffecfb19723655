// Loras in requests: by the name of the model, by `read_me.expert`, and only those that a client may name.

import { join } from "node:path";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels, type ExpertUse } from "@readme-moe/express";
import express from "express";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { seenExperts, withSeenRoutes } from "../../packages/express/src/edge/experts.ts";
import { routesOf } from "../../packages/express/src/api/generation.ts";
import { complete } from "../support/complete.ts";
import { openExpertEngine, writeAdaptersOf, writeExpertBase } from "../support/expert-engine.ts";
import { postJson, type JsonAnswer } from "../support/post-json.ts";
import { scrape } from "../support/prometheus.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const KEYS = { legal: "sk-legal", support: "sk-support", boss: "sk-boss" };
const permit = ({ key, expert }: ExpertUse): boolean => key === "boss" || key === expert;
let engine: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  const loras = { legal: join(folder, "legal"), support: join(folder, "support") };
  const path = await writeExpertBase(join(folder, "base"));
  await writeAdaptersOf(path, { [loras.legal]: { seed: 1 }, [loras.support]: { seed: 2 } });
  engine = await openExpertEngine(path, loras);
  const other = await openTinyEngine(join(folder, "other"));
  const aliases = { "gpt-4": "base", lawyer: "base:legal" };
  const models = new ServedModels({ base: engine, moe: other }, { aliases, defaultModel: "base" });
  server = await listen(express().use(readMe({ models, keys: KEYS, experts: { permit } })));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const asKey = (key: keyof typeof KEYS) => ({ authorization: `Bearer ${KEYS[key]}` });
const ask = (body: object, key: keyof typeof KEYS = "boss", path = "/v1/completions"): Promise<JsonAnswer> =>
  postJson(`${server.url}${path}`, { ...(path === "/v1/completions" ? REQUEST : {}), ...body }, asKey(key));
const REQUEST = { prompt: "The ship", max_tokens: 6, temperature: 0, ignore_eos: true };

const textOf = ({ body }: JsonAnswer): string | undefined =>
  (body["choices"] as readonly { readonly text: string }[] | undefined)?.[0]?.text;

async function textBy(expert: string): Promise<string> {
  const params = { maxTokens: 6, temperature: 0, ignoreEos: true };
  return (await complete(engine, { prompt: "The ship", params, expert })).text;
}

async function listed(key: keyof typeof KEYS): Promise<readonly Record<string, unknown>[]> {
  const response = await fetch(`${server.url}/v1/models`, { headers: asKey(key) });
  return ((await response.json()) as { readonly data: readonly Record<string, unknown>[] }).data;
}

describe("an expert", () => {
  test.each([
    ["base:legal", "legal", "base:legal"],
    ["base:support", "support", "base:support"],
    ["gpt-4:legal", "legal", "base:legal"],
    ["lawyer", "legal", "base:legal"],
    ["base", "none", "base"],
    ["gpt-4", "none", "base"],
  ])("%s answers as %s of the engine", async (model, expert, answered) => {
    const answer = await ask({ model });
    expect(answer.body).toMatchObject({ model: answered });
    expect(textOf(answer)).toBe(await textBy(expert));
  });

  test("changes answers", async () => {
    expect(new Set(await Promise.all(["none", "legal", "support"].map(textBy))).size).toBeGreaterThan(1);
  });

  test("is the same by the model's name and by `read_me.expert`, in chats, streams and routes", async () => {
    const include = ["routes"];
    const index = engine.info.experts.indexOf("support");
    for (const more of [
      { model: "base:support", read_me: { include } },
      { read_me: { expert: "support", include } },
      { read_me: { expert: index, include } },
      { model: "base:support", read_me: { expert: "support", include } },
      { model: "base:support", read_me: { expert: index, include } },
    ]) {
      const answer = await ask(more);
      expect(textOf(answer)).toBe(await textBy("support"));
      const { read_me: readMeOf } = answer.body as { read_me: { experts: string[]; prompt_routes: number[][] } };
      expect(new Set(readMeOf.prompt_routes.flat().map((route) => readMeOf.experts[route]))).toEqual(
        new Set(["support"]),
      );
    }
    const chat = { model: "base:legal", messages: [{ role: "user", content: "Hi" }], max_tokens: 3 };
    expect((await ask(chat, "boss", "/v1/chat/completions")).body).toMatchObject({ model: "base:legal" });
    const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEYS.legal });
    let text = "";
    for await (const chunk of await openai.completions.create({ ...REQUEST, model: "base:legal", stream: true })) {
      expect(chunk.model).toBe("base:legal");
      text += chunk.choices[0]?.text ?? "";
    }
    expect(text).toBe(await textBy("legal"));
  });

  test("is refused where the model's name and `read_me.expert` contradict each other", async () => {
    for (const expert of ["legal", "none", engine.info.experts.indexOf("legal"), 0]) {
      const answer = await ask({ model: "base:support", read_me: { expert } });
      expect(answer).toMatchObject({
        status: 400,
        body: { error: { param: "read_me.expert", code: "invalid_value" } },
      });
    }
    expect((await ask({ model: "base:support", read_me: { expert: "router" } })).status).toBe(400);
  });

  test("can be named for texts that are tokenized", async () => {
    const plain = await ask({ model: "base", prompt: "The ship" }, "boss", "/tokenize");
    expect((await ask({ model: "base:legal", prompt: "The ship" }, "boss", "/tokenize")).body).toEqual(plain.body);
    expect(await ask({ model: "base:nobody", tokens: [5] }, "boss", "/detokenize")).toMatchObject({ status: 404 });
  });
});

describe("an unknown expert", () => {
  test.each([
    "base:nobody",
    "gpt-4:nobody",
    "base:none",
    "base:router",
    "base:",
    "lawyer:legal",
    "base:legal:legal",
    "moe:domain-1",
  ])("%s is no model", async (model) => {
    const { status, body } = await ask({ model });
    expect([status, body]).toMatchObject([404, { error: { code: "model_not_found", param: "model" } }]);
  });

  test("is answered with the names that exist", async () => {
    const { body } = await ask({ model: "gpt-4:nobody" });
    const { message } = body["error"] as { message: string };
    expect(message).toContain("`base:nobody` does not exist");
    expect(message).toContain("`base:legal`, `base:support`");
  });
});

describe("a list of models", () => {
  test("has experts with their model as parent, as vLLM lists them", async () => {
    const shared = { object: "model", owned_by: "readme-moe" };
    expect(await listed("boss")).toMatchObject([
      { ...shared, id: "base", root: "base", parent: null },
      { ...shared, id: "gpt-4", root: "base", parent: null },
      { ...shared, id: "base:legal", root: "base:legal", parent: "base" },
      { ...shared, id: "gpt-4:legal", root: "base:legal", parent: "base" },
      { ...shared, id: "lawyer", root: "base:legal", parent: "base" },
      { ...shared, id: "base:support", root: "base:support", parent: "base" },
      { ...shared, id: "gpt-4:support", root: "base:support", parent: "base" },
      { ...shared, id: "moe", root: "moe", parent: null },
    ]);
  });

  test("has exactly the names that requests can use", async () => {
    for (const key of ["boss", "legal"] as const) {
      const ids = (await listed(key)).map(({ id }) => id as string);
      const tried = [
        "base",
        "moe",
        "gpt-4",
        "lawyer",
        "base:none",
        ...["base", "gpt-4", "moe"].flatMap((model) =>
          ["legal", "support", "domain-0"].map((one) => `${model}:${one}`),
        ),
      ];
      for (const model of tried) {
        const { status } = await ask({ model, max_tokens: 1 }, key);
        expect([model, status]).toEqual([model, ids.includes(model) ? 200 : 404]);
        const shown = await fetch(`${server.url}/v1/models/${model}`, { headers: asKey(key) });
        expect(shown.status).toBe(status);
        if (status === 200) expect(await shown.json()).toMatchObject({ id: model });
      }
    }
  });
});

describe("an expert of somebody else", () => {
  test("does not exist for a client that may not name it", async () => {
    expect((await ask({ model: "base:legal" }, "legal")).status).toBe(200);
    const { status, body } = await ask({ model: "base:legal" }, "support");
    expect([status, body]).toMatchObject([404, { error: { code: "model_not_found" } }]);
    const { message } = body["error"] as { message: string };
    const unknown = (await ask({ model: "base:nobody" }, "support")).body["error"] as { message: string };
    expect(message.replaceAll("base:legal", "base:nobody")).toBe(unknown.message);
    expect(message).toContain("known are `base:support`.");
    for (const expert of ["legal", engine.info.experts.indexOf("legal")]) {
      const named = await ask({ model: "base", read_me: { expert } }, "support");
      expect(named).toMatchObject({ status: 400, body: { error: { param: "read_me.expert" } } });
      expect((named.body["error"] as { message: string }).message).toContain("one of none, support,");
    }
    expect((await ask({ read_me: { expert: "none" } }, "support")).status).toBe(200);
    expect((await listed("support")).map(({ id }) => id)).toEqual([
      "base",
      "gpt-4",
      "base:support",
      "gpt-4:support",
      "moe",
    ]);
  });
});

/** Asks everything that names experts as one key, and returns all that comes back. */
async function seenBy(url: string, key: keyof typeof KEYS): Promise<string> {
  const texts: string[] = [];
  const get = async (path: string): Promise<void> => {
    const response = await fetch(`${url}${path}`, { headers: asKey(key) });
    texts.push(JSON.stringify([...response.headers]), await response.text());
  };
  const post = async (path: string, body: object): Promise<void> => {
    const headers = { "content-type": "application/json", ...asKey(key) };
    const response = await fetch(`${url}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    texts.push(JSON.stringify([...response.headers]), await response.text());
  };
  const read_me = { include: ["routes", "timings"] };
  const messages = [{ role: "user", content: "The ship" }];
  for (const model of ["base", "base:support"]) {
    for (const stream of [false, true]) {
      await post("/v1/completions", { ...REQUEST, model, stream, read_me });
      await post("/v1/chat/completions", { model, messages, max_tokens: 3, stream, read_me });
    }
    await post("/v1/responses", { model, input: "The ship", max_output_tokens: 16 });
    await post("/v1/messages", { model, messages, max_tokens: 3 });
    await post("/api/chat", { model, messages, options: { num_predict: 2 } });
    await post("/api/show", { model });
    await post("/tokenize", { model, prompt: "x" });
  }
  const indices = engine.info.experts.map((_, index) => index);
  for (const expert of ["nobody", "router", 99, ...indices]) {
    await post("/v1/completions", { ...REQUEST, model: "base", read_me: { ...read_me, expert } });
  }
  for (const model of ["lawyer", "base:nobody", "moe:nobody", "nobody", "lawyer:nobody"]) {
    await post("/v1/completions", { ...REQUEST, model });
    await post("/v1/embeddings", { input: "x", model });
    await get(`/v1/models/${model}`);
  }
  await post("/v1/completions", { ...REQUEST, model: "base", read_me: { expert: "support", include: ["routes"] } });
  await post("/v1/embeddings", { model: "base", input: "x" });
  for (const path of ["/v1/models", "/api/tags", "/api/ps", "/openapi.json"]) await get(path);
  for (const path of ["/metrics", "/health", "/readyz", "/livez", "/version"]) await get(path);
  return texts.join("\n");
}

const mayName = (_: string, expert: string): boolean => expert === "support";

describe("the name of an expert of somebody else", () => {
  test("comes out of no route, answer, error, header or metric", async () => {
    await ask({ model: "base:legal" }, "legal");
    const models = new ServedModels({ base: engine }, { aliases: { lawyer: "base:legal" }, defaultModel: "base" });
    const options = { models, keys: KEYS, experts: { permit }, ollama: true };
    await using one = await listen(express().use(readMe(options)));
    const headers = { "content-type": "application/json", ...asKey("legal") };
    const body = JSON.stringify({ ...REQUEST, model: "lawyer" });
    expect((await fetch(`${one.url}/v1/completions`, { method: "POST", headers, body })).status).toBe(200);
    const text = await seenBy(one.url, "support");
    expect(text).toContain("base:support");
    expect(text).toContain('"experts":');
    expect(text).not.toContain("legal");
  });

  test("is missing in routes, and so is its index", () => {
    const [legal, support] = ["legal", "support"].map((name) => engine.info.experts.indexOf(name));
    const seen = seenExperts({ engine, servedName: "base", namedExpert: undefined, mayName });
    expect(seen).toStrictEqual(engine.info.experts.map((name) => (name === "legal" ? "" : name)));
    const tokens = [0, legal ?? -1, support ?? -1, 99].map((expert) => ({ id: 1, expert }));
    const piece = withSeenRoutes({ choice: 0, index: 0, prompt: 0, text: "", tokens: [...tokens, { id: 1 }] }, seen);
    expect(routesOf(piece, true)).toStrictEqual({ read_me: { routes: [0, null, support, null, null] } });
  });
});

test("metrics count requests by expert, under numbers where names are private", async () => {
  const counted = async (): Promise<readonly (readonly [string, number])[]> =>
    (await scrape(server.url)).samples
      .filter(({ name }) => name === "readme_expert_requests_total")
      .map(({ labels, value }) => [labels["expert"] ?? "", value] as const);
  const before = new Map(await counted());
  await ask({ model: "base:support" });
  await ask({ read_me: { expert: engine.info.experts.indexOf("support") } });
  await ask({ model: "base" });
  await ask({ model: "base:made-up-by-a-client" });
  await ask({ read_me: { expert: "made-up-by-a-client" } });
  const after = await counted();
  expect(after.map(([, value]) => value).reduce((sum, value) => sum + value)).toBe(
    [...before.values()].reduce((sum, value) => sum + value, 0) + 2,
  );
  expect(after.filter(([label, value]) => value === (before.get(label) ?? 0) + 2)).toHaveLength(1);
  const { samples } = await scrape(server.url);
  expect(new Set(samples.flatMap(({ labels }) => labels["model_name"] ?? []))).toEqual(new Set(["base", "moe"]));
  const labels = new Set(samples.flatMap((sample) => sample.labels["expert"] ?? []));
  expect([...labels].filter((label) => !/^(private-\d+|none|domain-1)$/.test(label))).toEqual([]);
  const open = new ServedModels({ base: engine });
  await using named = await listen(express().use(readMe({ models: open })));
  expect((await postJson(`${named.url}/v1/completions`, { ...REQUEST, model: "base:support" })).status).toBe(200);
  expect((await scrape(named.url)).value("readme_expert_requests_total", { expert: "support" })).toBe(1);
});
