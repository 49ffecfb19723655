// A server with every route, two clients, and things that one of them has.

import { ReadMeError, type EngineStats } from "@readme-moe/core";
import { readMe, ServedModels, type ReadMeOptions } from "@readme-moe/express";
import express from "express";
import { onTestFinished } from "vitest";
import type { Route } from "../../packages/express/src/http/routes.ts";
import { makeServices } from "../../packages/express/src/services.ts";
import { batchFile } from "./batches.ts";
import { chunkOf, scriptedEngine, USAGE } from "./scripted-engine.ts";
import { listen } from "./served-model.ts";
import { persistentFolder } from "./temporary-folder.ts";

export type Client = "ann" | "bob";

/** Ids of Ann's things, and the name of an expert that only Ann may name. */
export interface Ids {
  readonly response: string;
  readonly item: string;
  readonly file: string;
  readonly batch: string;
  readonly expert: string;
}

export interface Tenants {
  readonly port: number;
  readonly ids: Ids;
  /** Every route of the server. */
  readonly routes: readonly Route[];
  /** Sends a request. A body of JSON makes it a POST. */
  readonly ask: (client: Client, path: string, sent?: Sent) => Promise<Response>;
}

interface Sent {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: FormData;
  readonly json?: object;
}

/** Tokens of an answer that does not end. */
export const ENDLESS_ANSWER = 50;

const OPTIONS: ReadMeOptions = {
  keys: { ann: "ann", bob: "bob" },
  experts: { permit: ({ key, expert }) => expert !== "law" || key === "ann", operatorKeys: ["operator"], folder: "/" },
  ollama: true,
};

/** Makes an engine with two loras, which answers one letter, or never ends. */
function engineOfTenants(): NonNullable<ReadMeOptions["engine"]> {
  const info = { expertKind: "lora", experts: ["none", "law", "code"], hasRouter: false } as const;
  const engine = scriptedEngine({
    info,
    async *answer({ params, signal }) {
      if (params?.maxTokens === ENDLESS_ANSWER) {
        yield chunkOf(0, "a");
        await new Promise((resolve) => signal?.addEventListener("abort", resolve));
        throw signal?.reason;
      }
      yield chunkOf(0, "a", { finishReason: "stop", usage: USAGE });
    },
  });
  return {
    ...engine,
    follow: async () => undefined,
    tokenize: async () => Promise.reject(new ReadMeError("ERR_CONTEXT_LENGTH", "Too long")),
    stats: async () => ({ numRunning: 0, numWaiting: 0 }) as EngineStats,
  };
}

/** Starts the server until the test ends. @param text - instructions of Ann's response */
export async function serveTenants(options: Partial<ReadMeOptions> = {}, text = "Be kind"): Promise<Tenants> {
  const folders = [await persistentFolder(), await persistentFolder()] as const;
  const models = new ServedModels({ scripted: engineOfTenants() });
  const own = { ...OPTIONS, ...options, models };
  const server = await listen(express().use(readMe({ ...own, batches: { folder: folders[0] } })));
  onTestFinished(() => server[Symbol.asyncDispose]());
  const { table } = makeServices("readMe", { ...own, batches: { folder: folders[1] } });
  onTestFinished(async () => void (await models.drain({ deadlineMs: 0 })));
  const ask: Tenants["ask"] = (client, path, { json, ...init } = {}) =>
    fetch(`http://127.0.0.1:${server.port}${path}`, {
      ...(json && { method: "POST", body: JSON.stringify(json) }),
      ...init,
      headers: {
        authorization: `Bearer ${client}`,
        "x-request-id": "same",
        ...(json && { "content-type": "application/json" }),
        ...init.headers,
      },
    });
  const made = async (path: string, init: Sent): Promise<string> =>
    ((await (await ask("ann", path, init)).json()) as { id: string }).id;
  const item = "msg_of_ann";
  const input = [{ role: "user", content: "Hello", id: item }];
  const response = await made("/v1/responses", { json: { input, instructions: text, max_output_tokens: 1 } });
  const form = new FormData();
  form.append("purpose", "batch");
  form.append("file", new Blob([batchFile({ bodies: [{ prompt: "x", max_tokens: 1 }] })]), "in.jsonl");
  const file = await made("/v1/files", { method: "POST", body: form });
  const json = { input_file_id: file, endpoint: "/v1/completions", completion_window: "24h" };
  const batch = await made("/v1/batches", { json });
  while (!(await (await ask("ann", `/v1/batches/${batch}`)).text()).includes('"status":"completed"'));
  return { port: server.port, ids: { response, item, file, batch, expert: "scripted:law" }, routes: table.routes, ask };
}
