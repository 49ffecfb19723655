// Servers whose operators may load experts, and what they tell.

import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels, type ReadMeApiOptions } from "@readme-moe/express";
import express, { type Express } from "express";
import { expect, onTestFinished } from "vitest";
import { openExpertEngine, writeAdaptersOf, writeExpertBase } from "./expert-engine.ts";
import { postJson } from "./post-json.ts";
import { listen, type RunningServer } from "./served-model.ts";
import { parseEvents } from "./sse.ts";

export const LOAD = "/v1/load_lora_adapter";
export const UNLOAD = "/v1/unload_lora_adapter";
export const OPERATOR = { authorization: "Bearer op-key" };
export const CLIENT = { authorization: "Bearer sk-client" };
const LONG = { prompt: "The ship", temperature: 0, ignore_eos: true, max_tokens: 200, stream: true };

/** Folders of a model and of experts. */
export interface OperatedFolders {
  readonly model: string;
  readonly adapters: string;
}

/** Writes a model, and adapters that can be loaded, and some that cannot. @param base - a new folder */
export async function writeOperated(base: string): Promise<OperatedFolders> {
  const adapters = join(base, "adapters");
  const model = await writeExpertBase(join(base, "base"));
  await writeAdaptersOf(model, {
    [join(adapters, "legal")]: { seed: 1 },
    [join(adapters, "acme", "support")]: { seed: 2 },
    [join(adapters, "dora")]: { seed: 3, config: { use_dora: true } },
    [join(base, "outside")]: { seed: 4 },
  });
  await symlink(join(base, "outside"), join(adapters, "link"));
  await mkdir(join(adapters, "empty"));
  return { model, adapters };
}

interface Streamed {
  readonly id: string;
  readonly text: string;
}

interface Operated extends RunningServer {
  readonly engine: ReadMeEngine;
  readonly models: ServedModels;
  readonly load: (name: unknown, path: unknown, more?: object) => Promise<string>;
  readonly unload: (name: unknown) => Promise<string>;
}

export interface OperatedOptions extends OperatedFolders {
  readonly isolation?: "thread" | "process";
  readonly options?: Partial<ReadMeApiOptions>;
}

/** Serves a tiny model as `base` and `alias` until the test ends. */
export async function serveOperated({ model, adapters, isolation, options }: OperatedOptions): Promise<Operated> {
  const engine = await openExpertEngine(model, {}, isolation);
  onTestFinished(() => engine.dispose());
  const models = new ServedModels({ base: engine }, { aliases: { alias: "base" }, restart: { firstDelayMs: 0 } });
  const experts = { operatorKeys: { ops: "op-key" }, folder: adapters };
  const server = await listenForTest(express().use(readMe({ models, keys: ["sk-client"], experts, ...options })));
  return {
    ...server,
    engine,
    models,
    load: (lora_name, lora_path, more = {}) => told(server.url + LOAD, { lora_name, lora_path, ...more }),
    unload: (lora_name) => told(server.url + UNLOAD, { lora_name }),
  };
}

export async function listenForTest(app: Express): Promise<RunningServer> {
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return server;
}

/** Asks as an operator. @returns status and text of an answer, or status and code of an error */
export async function told(url: string, body: object, headers: Record<string, string> = OPERATOR): Promise<string> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  expect(text).not.toContain("readme-moe-test-");
  if (response.status === 200) return `200 ${text}`;
  return `${response.status} ${(JSON.parse(text) as { error: { code: string } }).error.code}`;
}

/** Asks for one token as a client. */
export async function statusOf({ url }: RunningServer, model: string): Promise<number> {
  const { status } = await postJson(`${url}/v1/completions`, { model, prompt: "The ship", max_tokens: 1 }, CLIENT);
  return status;
}

/** Begins a stream. @returns what it says, and its id, after the first event has arrived */
export async function begin({ url }: RunningServer, model: string): Promise<() => Promise<Streamed>> {
  const headers = { "content-type": "application/json", ...CLIENT };
  const body = JSON.stringify({ ...LONG, model });
  const response = await fetch(`${url}/v1/completions`, { method: "POST", headers, body });
  expect(response.status).toBe(200);
  const text = response.text();
  return async () => {
    const { data } = parseEvents(await text);
    expect(data.at(-1)).toBe("[DONE]");
    const chunks = data.slice(0, -1).map((one) => JSON.parse(one) as { id: string; choices: { text: string }[] });
    return { id: chunks[0]?.id ?? "", text: chunks.map(({ choices }) => choices[0]?.text ?? "").join("") };
  };
}

/** Lists the names of models. */
export async function ids({ url }: RunningServer): Promise<readonly string[]> {
  const { data } = (await (await fetch(`${url}/v1/models`, { headers: CLIENT })).json()) as { data: { id: string }[] };
  return data.map(({ id }) => id);
}
