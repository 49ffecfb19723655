// Files and batches over HTTP with the OpenAI SDK, on the pocket model.

import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import OpenAI, { toFile } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { listen, type RunningServer } from "../../support/served-model.ts";
import { openPocket } from "../../support/pocket-engine.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";
import { batchFile, ended, linesOf, type Asked } from "../../support/batches.ts";

const keys = { ann: "secret", bob: "other" };
let engine: ReadMeEngine;
let server: RunningServer;
let ann: OpenAI;
let bob: OpenAI;

beforeAll(async () => {
  engine = await openPocket(await persistentFolder());
  const batches = { folder: await persistentFolder(), maxFileBytes: 1 << 20 };
  server = await listen(express().use(readMe({ models: { pocket: engine }, keys, batches })));
  const client = (apiKey: string): OpenAI => new OpenAI({ apiKey, baseURL: `${server.url}/v1`, maxRetries: 0 });
  [ann, bob] = [client(keys.ann), client(keys.bob)];
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const upload = (client: OpenAI, text: string): Promise<OpenAI.FileObject> =>
  toFile(Buffer.from(text), "in.jsonl").then((file) => client.files.create({ file, purpose: "batch" }));

/** Runs a batch to its end. */
async function run(asked: Asked, client: OpenAI = ann): Promise<OpenAI.Batch> {
  const { id: input_file_id } = await upload(client, batchFile(asked));
  const { endpoint = "/v1/completions" } = asked;
  const { id } = await client.batches.create({ input_file_id, endpoint, completion_window: "24h" });
  return ended(client, id);
}

const contentOf = async (id: string | null | undefined, client: OpenAI = ann): Promise<string> =>
  id == null ? "" : (await client.files.content(id)).text();

/** Posts a body to `/v1/files`. @returns the wrong parameter, or the code of the error */
async function refusalOf(body: RequestInit["body"], headers: Readonly<Record<string, string>> = {}): Promise<unknown> {
  const init = { method: "POST", body, headers: { authorization: "Bearer secret", ...headers } } as RequestInit;
  const { error } = (await (await fetch(`${server.url}/v1/files`, init)).json()) as {
    error: { param: unknown; code: unknown };
  };
  return error.param ?? error.code;
}

function form(entries: Readonly<Record<string, string | Blob>>): FormData {
  const made = new FormData();
  for (const [name, value] of Object.entries(entries)) made.append(name, value);
  return made;
}

describe("files", () => {
  test("come back as they were sent, and only to their key", async () => {
    const text = batchFile({ bodies: [{ prompt: "é" }] });
    const file = await upload(ann, text);
    expect(file).toMatchObject({
      object: "file",
      bytes: Buffer.byteLength(text),
      filename: "in.jsonl",
      purpose: "batch",
    });
    expect(await ann.files.retrieve(file.id)).toEqual(file);
    expect(await contentOf(file.id)).toBe(text);
    expect((await bob.files.list()).data).toEqual([]);
    await expect(bob.files.retrieve(file.id)).rejects.toMatchObject({ status: 404 });
    await expect(contentOf(file.id, bob)).rejects.toMatchObject({ status: 404 });
    await expect(bob.files.delete(file.id)).rejects.toMatchObject({ status: 404 });
    expect(await ann.files.delete(file.id)).toEqual({ id: file.id, object: "file", deleted: true });
    await expect(ann.files.retrieve(file.id)).rejects.toMatchObject({ status: 404 });
  });

  test("are listed page by page, the newest first", async () => {
    const made = [];
    for (let index = 0; index < 3; index++) made.push((await upload(ann, "x")).id);
    const ids: string[] = [];
    for await (const { id } of ann.files.list({ limit: 2 })) ids.push(id);
    expect(ids.toSorted()).toEqual(made.toSorted());
    for (const id of made) await ann.files.delete(id);
  });

  test("are refused where they are too large, have no purpose, or are none", async () => {
    await expect(upload(ann, "x".repeat((1 << 20) + 1))).rejects.toMatchObject({ status: 413 });
    const file = new Blob(["x"]);
    expect(await refusalOf(form({ file }))).toBe("purpose");
    expect(await refusalOf(form({ file, purpose: "assistants" }))).toBe("purpose");
    expect(await refusalOf(form({ purpose: "batch" }))).toBe("file");
    expect(await refusalOf(form({ purpose: "batch", file: "text" }))).toBe("file");
    expect(await refusalOf(form({ purpose: "batch", other: file }))).toBe("other");
    expect(await refusalOf(form({ file, purpose: "batch", more: "x" }))).toBe("more");
    expect(await refusalOf("{}", { "content-type": "application/json" })).toBe("unsupported_media_type");
    const cut = { "content-type": "multipart/form-data; boundary=b" };
    expect(await refusalOf('--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nx', cut)).toBe(
      "invalid_body",
    );
    expect(await refusalOf("x", { "content-type": "multipart/form-data" })).toBe("unsupported_media_type");
    expect((await ann.files.list()).data).toEqual([]);
  });
});

describe("batches", () => {
  const sampled = { max_tokens: 6, temperature: 1, seed: 5 };
  const bodies = Array.from({ length: 20 }, (_, index) => ({ prompt: `Number ${index}`, ...sampled }));

  test("give the answers that the requests have alone", async () => {
    const batch = await run({ bodies });
    expect(batch).toMatchObject({ status: "completed", request_counts: { total: 20, completed: 20, failed: 0 } });
    expect(batch.error_file_id).toBeNull();
    const lines = linesOf(await contentOf(batch.output_file_id));
    expect(lines.map((line) => line.custom_id)).toEqual(bodies.map((_, index) => `request-${index}`));
    for (const [index, { response, error }] of lines.entries()) {
      expect([error, response?.status_code]).toEqual([null, 200]);
      const alone = await ann.completions.create({ model: "pocket", ...(bodies[index] ?? { prompt: "" }) });
      // How many drafts are accepted depends on the load, so their counts may differ.
      const { completion_tokens_details: _, ...usage } = alone.usage ?? {};
      expect(response?.body).toMatchObject({ object: "text_completion", choices: alone.choices, usage });
    }
  });

  test("run chats and responses, and put refused lines into the file of errors", async () => {
    const chats = [{ messages: [{ role: "user", content: "Hi" }], max_tokens: 3 }, { messages: [] }, { stream: true }];
    const batch = await run({ endpoint: "/v1/chat/completions", bodies: chats });
    expect(batch).toMatchObject({ status: "completed", request_counts: { total: 3, completed: 0, failed: 3 } });
    const codes = linesOf(await contentOf(batch.error_file_id)).map(({ response }) => response?.status_code);
    expect(codes).toEqual([400, 400, 400]);
    const embedding = await run({
      endpoint: "/v1/embeddings",
      bodies: [{ input: "x" }, { input: "y", model: "none" }],
    });
    const errors = linesOf(await contentOf(embedding.error_file_id));
    expect(errors.map(({ response }) => response?.status_code)).toEqual([400, 404]);
  });

  test("fail with the numbers of lines that are no requests, before any line runs", async () => {
    const good = { custom_id: "a", method: "POST", url: "/v1/completions", body: { prompt: "x" } };
    const wrong: readonly (readonly [unknown, string])[] = [
      ["{", "invalid_json_line"],
      [7, "invalid_json_line"],
      [{ ...good, custom_id: undefined }, "invalid_custom_id"],
      [{ ...good, custom_id: "b", method: "GET" }, "invalid_method"],
      [{ ...good, custom_id: "c", url: "/v1/responses" }, "mismatched_endpoint"],
      [{ ...good, custom_id: "d", body: [] }, "invalid_body"],
      [good, "duplicate_custom_id"],
    ];
    const text = [good, ...wrong.map(([line]) => line)].map((line) => (line === "{" ? line : JSON.stringify(line)));
    const { id: input_file_id } = await upload(ann, text.join("\n"));
    const created = await ann.batches.create({ input_file_id, endpoint: "/v1/completions", completion_window: "24h" });
    const batch = await ended(ann, created.id);
    expect(batch.status).toBe("failed");
    expect(batch.errors?.data?.map(({ line, code }) => [line, code])).toEqual(
      wrong.map(([, code], index) => [index + 2, code]),
    );
    expect(batch.output_file_id).toBeNull();
    expect((await run({ bodies: [] })).errors?.data?.map(({ code }) => code)).toEqual(["empty_file"]);
  });

  test("belong to their key, and are listed page by page", async () => {
    const batch = await run({ bodies: [{ prompt: "x", max_tokens: 1 }] }, bob);
    await expect(ann.batches.retrieve(batch.id)).rejects.toMatchObject({ status: 404 });
    await expect(ann.batches.cancel(batch.id)).rejects.toMatchObject({ status: 404 });
    const { input_file_id } = batch;
    const stolen = ann.batches.create({ input_file_id, endpoint: "/v1/completions", completion_window: "24h" });
    await expect(stolen).rejects.toMatchObject({ status: 404 });
    await run({ bodies: [{ prompt: "y", max_tokens: 1 }] }, bob);
    const ids: string[] = [];
    for await (const { id } of bob.batches.list({ limit: 1 })) ids.push(id);
    expect(ids).toHaveLength(2);
    expect(ids).toContain(batch.id);
    await expect(bob.batches.cancel(batch.id)).rejects.toMatchObject({ status: 400 });
  });

  test("end with what they have when they are cancelled, and keep their input until then", async () => {
    const long = Array.from({ length: 60 }, () => ({ prompt: "Once", max_tokens: 300, ignore_eos: true }));
    const { id: input_file_id } = await upload(ann, batchFile({ bodies: long }));
    const metadata = { team: "a" };
    const endpoint = "/v1/completions";
    const { id } = await ann.batches.create({ input_file_id, endpoint, completion_window: "24h", metadata });
    await expect(ann.files.delete(input_file_id)).rejects.toMatchObject({ status: 400, code: "file_in_use" });
    const cancelling = await ann.batches.cancel(id);
    expect(cancelling).toMatchObject({ status: "cancelling", metadata });
    const batch = await ended(ann, id);
    expect(batch.status).toBe("cancelled");
    const { completed = 0, failed } = batch.request_counts ?? {};
    expect([completed < 60, failed]).toEqual([true, 0]);
    expect(linesOf(await contentOf(batch.output_file_id))).toHaveLength(completed);
    await ann.files.delete(input_file_id);
  });
});
