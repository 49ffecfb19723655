// Batches beside other requests: admission, limits of tokens, hooks, and descriptions of answers.

import type { Engine, GenerateRequest } from "@readme-moe/core";
import { ApiError, openApiDocument, readMe, type ReadMeOptions } from "@readme-moe/express";
import { Ajv2020 } from "ajv/dist/2020.js";
import express from "express";
import OpenAI, { toFile } from "openai";
import { expect, onTestFinished, test } from "vitest";
import { batchFile, ended, linesOf } from "../../support/batches.ts";
import { Deferred } from "../../support/deferred.ts";
import { acceptTen, chunkOf, scriptedEngine, USAGE } from "../../support/scripted-engine.ts";
import { listen } from "../../support/served-model.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const body = { model: "scripted", prompt: "x", max_tokens: 3 };

/** Makes an engine that answers at once, or requests of batches when `gate` opens. */
function engineOf(seen: GenerateRequest[], gate?: Promise<void>): Engine {
  const scripted = scriptedEngine({
    async *answer(request) {
      seen.push(request);
      if ((request.priority ?? 0) < 0) await gate;
      yield chunkOf(0, "a", { finishReason: "length", usage: USAGE });
    },
    accept: acceptTen,
  });
  return { ...scripted, stats: async () => ({ numRunning: 0, numWaiting: 0 }) as never };
}

async function serve(options: ReadMeOptions): Promise<OpenAI> {
  const batches = { folder: await temporaryFolder(), maxLoad: 1 };
  const server = await listen(express().use(readMe({ keys: { ann: "a" }, batches, ...options })));
  onTestFinished(() => server[Symbol.asyncDispose]());
  return new OpenAI({ apiKey: "a", baseURL: `${server.url}/v1`, maxRetries: 0 });
}

/** Adds a batch. @returns its id */
async function begin(client: OpenAI, count: number): Promise<string> {
  const bodies = Array.from({ length: count }, () => body);
  const file = await toFile(Buffer.from(batchFile({ bodies })), "in.jsonl");
  const { id: input_file_id } = await client.files.create({ file, purpose: "batch" });
  return (await client.batches.create({ input_file_id, endpoint: "/v1/completions", completion_window: "24h" })).id;
}

test("a request is admitted whatever batches run, and goes before them", async () => {
  const seen: GenerateRequest[] = [];
  const gate = new Deferred();
  const client = await serve({ engine: engineOf(seen, gate.promise), admission: { maxRequests: 1 } });
  const id = await begin(client, 6);
  await expect.poll(() => seen.length, { interval: 5 }).toBe(4);
  expect((await client.completions.create(body)).choices[0]?.text).toBe("a");
  expect(seen.map(({ priority, client: name, cacheSalt }) => [priority, name, cacheSalt])).toEqual([
    ...Array.from({ length: 4 }, () => [-10_000, "key:ann", "key:ann"]),
    [0, "key:ann", "key:ann"],
  ]);
  gate.resolve();
  expect(await ended(client, id)).toMatchObject({ status: "completed", request_counts: { completed: 6 } });
});

test("tokens of batches are limited apart from those of other requests", async () => {
  const seen: GenerateRequest[] = [];
  const client = await serve({ engine: engineOf(seen), tokensPerMinute: 23 });
  const id = await begin(client, 40);
  await expect.poll(() => seen.length, { interval: 5 }).toBeGreaterThan(0);
  const { response } = await client.completions.create(body).withResponse();
  expect(response.headers.get("x-ratelimit-remaining-tokens")).toBe("23");
  const numRun = seen.length;
  await client.batches.cancel(id);
  const batch = await ended(client, id);
  // Lines that began together are counted when they end.
  expect(numRun).toBeLessThanOrEqual(9);
  expect(batch).toMatchObject({ status: "cancelled", request_counts: { total: 40, failed: 0 } });
});

test("the hook sees lines as requests of its host, changes and refuses them", async () => {
  const seen: GenerateRequest[] = [];
  const told = new Set<string>();
  const client = await serve({
    engine: engineOf(seen),
    onRequest(sent, { batch, key, request, endpoint }) {
      told.add(JSON.stringify([batch?.customId, key, request.get("content-type"), endpoint]));
      if (batch?.customId === "request-1") {
        throw new ApiError({ status: 403, type: "invalid_request_error", message: "No" });
      }
      return { ...sent, seed: 7 };
    },
  });
  const batch = await ended(client, await begin(client, 2));
  // Lines run beside each other.
  const lines = [0, 1].map((index) =>
    JSON.stringify([`request-${index}`, "ann", "application/json", "/v1/completions"]),
  );
  expect(told).toEqual(new Set(lines));
  expect(seen.map(({ params }) => params?.seed)).toEqual([7]);
  const errors = await (await client.files.content(batch.error_file_id ?? "")).text();
  expect(linesOf(errors).map(({ custom_id: name, response }) => [name, response?.status_code])).toEqual([
    ["request-1", 403],
  ]);
});

test("answers are those that the description promises, where there are batches", async () => {
  const client = await serve({ engine: engineOf([]) });
  const { components, paths } = openApiDocument({ hasBatches: true });
  const ajv = new Ajv2020({ strict: false });
  const expectValid = (name: string, value: unknown): void => {
    const validate = ajv.compile({ ...components.schemas[name] });
    if (!validate(value)) throw new Error(`${name}: ${ajv.errorsText(validate.errors)} in ${JSON.stringify(value)}`);
  };
  const id = await begin(client, 1);
  expectValid("Batch", await client.batches.cancel(id));
  expectValid("Batch", await ended(client, id));
  expectValid("BatchList", await client.get("/batches"));
  expectValid("FileList", await client.get("/files"));
  const { data } = await client.files.list();
  for (const file of data) expectValid("DeletedFile", await client.files.delete(file.id));
  expect(await client.get("/files")).toEqual({
    object: "list",
    data: [],
    first_id: null,
    last_id: null,
    has_more: false,
  });
  expect(Object.keys(paths).filter((path) => /files|batches/.test(path))).toHaveLength(6);
  expect(Object.keys(openApiDocument().paths).filter((path) => /files|batches/.test(path))).toEqual([]);
});
