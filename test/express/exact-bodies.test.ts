// The answers of routes that do not generate, and errors, field by field.

import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { exact } from "../support/exact-bodies.ts";
import { startExactServer, type ExactServer } from "../support/exact-server.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let { whole, url } = {} as ExactServer;
let server: ExactServer;
beforeAll(async () => {
  server = await startExactServer(folder);
  ({ whole, url } = server);
});
afterAll(() => server[Symbol.asyncDispose]());

const messages = [{ role: "user", content: "x" }] as const;

const page = (item: object & { readonly id: string }): object => ({
  object: "list",
  data: [item],
  first_id: item.id,
  last_id: item.id,
  has_more: false,
});

describe("other routes", () => {
  test("embeddings and rankings", async () => {
    const usage = { prompt_tokens: 7, total_tokens: 7 };
    const input = ["a", "b"];
    expect(await whole("/v1/embeddings", { model: "embedder", input })).toStrictEqual({
      object: "list",
      data: input.map((_, index) => ({ object: "embedding", index, embedding: [0.5, -index || 0] })),
      model: "embedder",
      usage,
    });
    const base64 = Buffer.from(Float32Array.of(0.5, -0).buffer).toString("base64");
    expect(await whole("/v1/embeddings", { model: "embedder", input: "a", encoding_format: "base64" })).toStrictEqual({
      object: "list",
      data: [{ object: "embedding", index: 0, embedding: base64 }],
      model: "embedder",
      usage,
    });
    const ranked = { model: "ranker", query: "q", documents: input };
    const results = [
      { index: 1, relevance_score: 0.25 },
      { index: 0, relevance_score: 0 },
    ];
    for (const path of ["/v1/rerank", "/v2/rerank", "/rerank"]) {
      const head = { id: "rerank-#1", model: "ranker", usage };
      expect(exact(await whole(path, ranked))).toStrictEqual([{ ...head, results }]);
      const documents = results.map(({ index, ...score }) => ({ index, document: { text: input[index] }, ...score }));
      expect(exact(await whole(path, { ...ranked, return_documents: true }))).toStrictEqual([
        { ...head, results: documents },
      ]);
    }
  });

  test("tokens", async () => {
    expect(await whole("/tokenize", { model: "scripted", prompt: "x" })).toStrictEqual({
      count: 2,
      max_model_len: 64,
      tokens: [1, 2],
    });
    expect(await whole("/detokenize", { model: "scripted", tokens: [41, 74] })).toStrictEqual({ prompt: "Hi" });
  });

  test("models", async () => {
    const models = ["scripted", "embedder", "ranker"].map((id) => ({
      id,
      object: "model",
      created: "now",
      owned_by: "readme-moe",
      root: id,
      parent: null,
      max_model_len: 64,
    }));
    expect(exact(await whole("/v1/models"), await whole("/v1/models/scripted"))).toStrictEqual([
      { object: "list", data: models },
      models[0],
    ]);
    const details = {
      parent_model: "",
      format: "",
      family: "llama",
      families: ["llama"],
      parameter_size: "",
      quantization_level: "int8",
    };
    const tags = models.map(({ id }) => ({
      name: `${id}:latest`,
      model: `${id}:latest`,
      modified_at: "now",
      size: 0,
      digest: createHash("sha256").update(`/models/${id}`).digest("hex"),
      details,
    }));
    const loaded = { expires_at: "2318-01-01T00:00:00Z", size_vram: 0, context_length: 64 };
    expect(exact(await whole("/api/tags"), await whole("/api/ps"))).toStrictEqual([
      { models: tags },
      { models: tags.map((tag) => ({ ...tag, ...loaded })) },
    ]);
    const parameters = [
      ["num_ctx", 64],
      ["temperature", 0.8],
      ["top_k", 40],
      ["top_p", 0.9],
    ];
    expect(exact(await whole("/api/show", { model: "scripted" }))).toStrictEqual([
      {
        modelfile: "",
        parameters: parameters.map(([key, value]) => `${key}`.padEnd(31) + value).join("\n"),
        template: "",
        modified_at: "now",
        details,
        model_info: { "general.architecture": "llama", "llama.context_length": 64 },
        capabilities: ["completion", "tools", "thinking"],
      },
    ]);
  });

  test("files and batches", async () => {
    const form = new FormData();
    form.append("purpose", "batch");
    form.append("file", new Blob(["{}\n"]), "in.jsonl");
    const file = (await whole("/v1/files", form)) as { readonly id: string };
    const exactFile = {
      id: "file-#1",
      object: "file",
      bytes: 3,
      created_at: "now",
      expires_at: `created + ${30 * 24 * 3600} s`,
      filename: "in.jsonl",
      purpose: "batch",
      status: "processed",
    };
    expect(exact(file, await whole(`/v1/files/${file.id}`), await whole("/v1/files"))).toStrictEqual([
      exactFile,
      exactFile,
      page(exactFile),
    ]);
    const endpoint = "/v1/completions";
    const asked = { input_file_id: file.id, endpoint, completion_window: "24h", metadata: { a: "b" } };
    const created = (await whole("/v1/batches", asked)) as { readonly id: string };
    const exactBatch = {
      id: "batch_#1",
      object: "batch",
      endpoint,
      errors: null,
      input_file_id: "file-#2",
      completion_window: "24h",
      status: "validating",
      output_file_id: null,
      error_file_id: null,
      created_at: "now",
      in_progress_at: null,
      expires_at: `created + ${24 * 3600} s`,
      finalizing_at: null,
      completed_at: null,
      failed_at: null,
      expired_at: null,
      cancelling_at: null,
      cancelled_at: null,
      request_counts: { total: 0, completed: 0, failed: 0 },
      metadata: { a: "b" },
    };
    expect(exact(created)).toStrictEqual([exactBatch]);
    const path = `/v1/batches/${created.id}`;
    await expect.poll(() => whole(path)).toHaveProperty("status", "failed");
    const message = "Expected a text of 1 to 512 characters.";
    const data = [{ code: "invalid_custom_id", message, line: 1, param: "custom_id" }];
    const ended = { ...exactBatch, status: "failed", failed_at: "now", errors: { object: "list", data } };
    expect(exact(await whole(path), await whole("/v1/batches"))).toStrictEqual([ended, page(ended)]);
    expect(await whole(`/v1/files/${file.id}`, undefined, "DELETE")).toStrictEqual({
      id: file.id,
      object: "file",
      deleted: true,
    });
    expect(await whole(`/v1/files/${file.id}`)).toStrictEqual({
      status: 404,
      error: {
        message: `No such File object: ${file.id}`,
        type: "invalid_request_error",
        param: "id",
        code: "file_not_found",
      },
    });
  });
});

const tooSmall = (param: string) => ({
  message: `Invalid '${param}': too small: expected number to be >=1`,
  type: "invalid_request_error",
  param,
  code: "invalid_value",
});

describe("errors", () => {
  const unknown =
    "The model `none` does not exist or you do not have access to it. Served are `scripted`, `embedder`, `ranker`.";
  const notFound = { message: unknown, type: "invalid_request_error", param: "model", code: "model_not_found" };
  const wrongMethod = {
    message: "Expected POST, got GET",
    type: "invalid_request_error",
    param: null,
    code: "method_not_allowed",
  };
  const notJson = {
    message: "The body is not valid JSON",
    type: "invalid_request_error",
    param: null,
    code: "invalid_json",
  };

  test.each([
    ["/v1/chat/completions", { messages }, "max_tokens"],
    ["/v1/completions", { prompt: "x" }, "max_tokens"],
    ["/v1/responses", { input: "x" }, "max_output_tokens"],
  ])("of %s", async (path, body, param) => {
    expect([
      await whole(path, { model: "none", ...body }),
      await whole(path, { model: "scripted", ...body, [param]: 0 }),
      await whole(path, { model: "scripted", ...body, [param]: 0, stream: true }),
      await whole(path, "{"),
      await whole(path),
    ]).toStrictEqual([
      { status: 404, error: notFound },
      { status: 400, error: tooSmall(param) },
      { status: 400, error: tooSmall(param) },
      { status: 400, error: notJson },
      { status: 405, error: wrongMethod },
    ]);
  });

  test("of /v1/messages", async () => {
    const body = { messages, max_tokens: 1 };
    const head = { type: "error" };
    expect(
      exact(
        await whole("/v1/messages", { model: "none", ...body }),
        await whole("/v1/messages", { model: "scripted", ...body, max_tokens: 0 }),
        await whole("/v1/messages", "{"),
        await whole("/v1/messages"),
      ),
    ).toStrictEqual([
      { ...head, status: 404, error: { ...notFound, type: "not_found_error" }, request_id: "#1" },
      { ...head, status: 400, error: tooSmall("max_tokens"), request_id: "#2" },
      { ...head, status: 400, error: notJson, request_id: "#3" },
      { ...head, status: 405, error: wrongMethod, request_id: "#4" },
    ]);
  });

  test("of Ollama's API", async () => {
    const body = { model: "scripted", messages, options: { num_predict: 0 } };
    expect([
      await whole("/api/chat", { ...body, model: "none", options: {} }),
      await whole("/api/chat", body),
      await whole("/api/chat", "{"),
      await whole("/api/chat"),
    ]).toStrictEqual([
      { status: 404, error: unknown },
      { status: 400, error: "Invalid 'options.num_predict': expected at least one token, or a negative number" },
      { status: 400, error: notJson.message },
      { status: 405, error: wrongMethod.message },
    ]);
  });

  test("without a key, and of an unknown path", async () => {
    const answer = await fetch(`${url}/v1/models`);
    const message = "You didn't provide an API key; send one as `Authorization: Bearer …` or as `x-api-key`.";
    const error = { message, type: "invalid_request_error", param: null, code: "invalid_api_key" };
    expect([answer.status, await answer.json()]).toStrictEqual([401, { error }]);
    expect(await whole("/v1/none")).toStrictEqual({
      status: 404,
      error: { message: "There is no GET /v1/none", type: "invalid_request_error", param: null, code: "unknown_url" },
    });
  });
});
