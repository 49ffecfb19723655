// Low-rank experts in requests: by the name of the model, by `read_me.expert`, and only those that a client may name.

import { join } from "node:path";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels, type ExpertUse } from "@readme-moe/express";
import express from "express";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
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

test("metrics count requests by expert, and have no names that clients make up as labels", async () => {
  const count = async (expert: string): Promise<number> =>
    (await scrape(server.url)).value("readme_expert_requests_total", { model_name: "base", expert }) ?? 0;
  const before = await count("support");
  await ask({ model: "base:support" });
  await ask({ read_me: { expert: engine.info.experts.indexOf("support") } });
  await ask({ model: "base" });
  await ask({ model: "base:made-up-by-a-client" });
  await ask({ read_me: { expert: "made-up-by-a-client" } });
  expect(await count("support")).toBe(before + 2);
  const { samples } = await scrape(server.url);
  expect(new Set(samples.flatMap(({ labels }) => labels["model_name"] ?? []))).toEqual(new Set(["base", "moe"]));
  const experts = new Set(samples.flatMap(({ labels }) => labels["expert"] ?? []));
  expect([...experts].filter((name) => ![...engine.info.experts, "domain-1"].includes(name))).toEqual([]);
});
