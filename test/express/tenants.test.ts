// Tests that one key's things do not exist for another: every route and field that takes an id answers with another
// key's id as with one that nobody has.

import { openApiDocument } from "@readme-moe/express";
import { expect, test } from "vitest";
import { batchFile, linesOf } from "../support/batches.ts";
import { ENDLESS_ANSWER, serveTenants, type Client, type Ids, type Tenants } from "../support/tenants.ts";

/** Returns an id of the same length that nobody has. */
function unknownOf(id: string): string {
  const end = id.slice(-3);
  return `${id.slice(0, -3)}${end === "000" ? "111" : "000"}`;
}

const CHANGING = ["date", "openai-processing-ms"];

/** Returns an answer without what differs between any two requests. */
async function comparable(response: Response, id: string): Promise<object> {
  const headers = [...response.headers].filter(([name]) => !CHANGING.includes(name));
  return { status: response.status, headers, body: (await response.text()).replaceAll(id, "ID") };
}

type Ask = (id: string, client: Client) => Promise<Response>;

/** Expects that Bob gets the same answer for Ann's id as for an unknown one. @returns its status */
async function expectUnknown(id: string, ask: Ask): Promise<number> {
  const nobodys = unknownOf(id);
  const [foreign, unknown] = [
    await comparable(await ask(id, "bob"), id),
    await comparable(await ask(nobodys, "bob"), nobodys),
  ];
  expect(foreign).toStrictEqual(unknown);
  return (foreign as { readonly status: number }).status;
}

/** Ids that the routes with a parameter name. What removes something comes last. */
const NAMED: Readonly<Record<string, (ids: Ids) => string>> = {
  "get /v1/models/*id": ({ expert }) => expert,
  "get /v1/responses/:id": ({ response }) => response,
  "get /v1/responses/:id/input_items": ({ response }) => response,
  "post /v1/responses/:id/cancel": ({ response }) => response,
  "get /v1/files/:id": ({ file }) => file,
  "get /v1/files/:id/content": ({ file }) => file,
  "get /v1/batches/:id": ({ batch }) => batch,
  "post /v1/batches/:id/cancel": ({ batch }) => batch,
  "delete /v1/responses/:id": ({ response }) => response,
  "delete /v1/files/:id": ({ file }) => file,
};

const methodsOf = ({ routes }: Tenants): readonly string[] =>
  routes.flatMap(({ path, methods }) => Object.keys(methods).map((method) => `${method} ${path}`));

/** Sends a request to a route with a parameter. */
const askNamed = ({ ask }: Tenants, name: string, id: string, client: Client): Promise<Response> => {
  const [method = "", path = ""] = name.split(" ");
  return ask(client, path.replace(/[:*]id/, encodeURIComponent(id)), { method: method.toUpperCase() });
};

test("every route with an id answers with another key's id as with an unknown one", async () => {
  const tenants = await serveTenants();
  const named = methodsOf(tenants).filter((name) => /[:*]/.test(name));
  expect(Object.keys(NAMED).toSorted()).toStrictEqual(named.toSorted());
  const reads = named.filter((name) => name.startsWith("get"));
  const read = async (): Promise<readonly object[]> => {
    const all = [];
    for (const name of reads) {
      const id = NAMED[name]?.(tenants.ids) ?? "";
      all.push(await comparable(await askNamed(tenants, name, id, "ann"), id));
    }
    return all;
  };
  const before = await read();
  for (const [name, idOf] of Object.entries(NAMED)) {
    const status = await expectUnknown(idOf(tenants.ids), (id, client) => askNamed(tenants, name, id, client));
    expect(status, name).toBe(404);
  }
  expect(await read()).toStrictEqual(before);
  // Each exists for Ann, though it may not be cancelled any more.
  for (const [name, idOf] of Object.entries(NAMED)) {
    const { status } = await askNamed(tenants, name, idOf(tenants.ids), "ann");
    expect(status, name).toBe(name.endsWith("cancel") ? 400 : 200);
  }
});

const TEXT = { max_tokens: 1 };
const CHAT = { messages: [{ role: "user", content: "Hi" }], max_tokens: 1 };

/** Bodies of all routes that take one, beside the model's name; undefined where a body names no model. */
const BODIES: Readonly<Record<string, object | undefined>> = {
  "post /v1/chat/completions": CHAT,
  "post /v1/completions": { prompt: "x", ...TEXT },
  "post /v1/fim/completions": { prompt: "x", ...TEXT },
  "post /infill": { input_prefix: "x", input_suffix: "y", n_predict: 1 },
  "post /v1/responses": { input: "x", max_output_tokens: 1 },
  "post /v1/embeddings": { input: "x" },
  "post /v1/messages": CHAT,
  "post /v1/messages/count_tokens": { messages: CHAT.messages },
  "post /v1/rerank": { query: "x", documents: ["x"] },
  "post /v2/rerank": { query: "x", documents: ["x"] },
  "post /rerank": { query: "x", documents: ["x"] },
  "post /v1/score": { text_1: "x", text_2: "x" },
  "post /score": { text_1: "x", text_2: "x" },
  "post /embed": { inputs: "x" },
  "post /classify": { input: "x" },
  "post /predict": { inputs: "x" },
  "post /tokenize": { prompt: "x" },
  "post /detokenize": { tokens: [1] },
  "post /api/chat": { messages: CHAT.messages, stream: false },
  "post /api/generate": { prompt: "x", stream: false },
  "post /api/embed": { input: "x" },
  "post /api/embeddings": { prompt: "x" },
  "post /api/show": {},
  "post /v1/files": undefined,
  "post /v1/batches": undefined,
  // Operators have keys of their own.
  "post /v1/load_lora_adapter": undefined,
  "post /v1/unload_lora_adapter": undefined,
};

test("an expert that a key may not name is unknown to every route that takes a model", async () => {
  const tenants = await serveTenants();
  const taking = methodsOf(tenants).filter((name) => name.startsWith("post") && !/[:*]/.test(name));
  expect(Object.keys(BODIES).toSorted()).toStrictEqual(taking.toSorted());
  for (const [name, body] of Object.entries(BODIES)) {
    if (!body) continue;
    const path = name.replace("post ", "");
    const ask: Ask = (model, client) => tenants.ask(client, path, { json: { ...body, model } });
    expect(await expectUnknown(tenants.ids.expert, ask), name).toBe(404);
    expect((await ask(tenants.ids.expert, "ann")).status, name).not.toBe(404);
  }
});

/** Requests that name something elsewhere than in a path or as the model, by what they name; and their status. */
const FIELDS: Readonly<
  Record<string, readonly [idOf: (ids: Ids) => string, ask: (tenants: Tenants) => Ask, status: number]>
> = {
  previous_response_id: [
    ({ response }) => response,
    ({ ask }) =>
      (id, client) =>
        ask(client, "/v1/responses", { json: { input: "x", previous_response_id: id, max_output_tokens: 1 } }),
    400,
  ],
  item_reference: [
    ({ item }) => item,
    ({ ask }) =>
      (id, client) =>
        ask(client, "/v1/responses", { json: { input: [{ type: "item_reference", id }], max_output_tokens: 1 } }),
    404,
  ],
  input_file_id: [
    ({ file }) => file,
    ({ ask }) =>
      (id, client) => {
        const json = { input_file_id: id, endpoint: "/v1/completions", completion_window: "24h" };
        return ask(client, "/v1/batches", { json });
      },
    404,
  ],
  "read_me.expert": [
    () => "law",
    ({ ask }) =>
      (expert, client) =>
        ask(client, "/v1/completions", { json: { prompt: "x", max_tokens: 1, read_me: { expert } } }),
    400,
  ],
  "after of files": [
    ({ file }) => file,
    ({ ask }) =>
      (id, client) =>
        ask(client, `/v1/files?after=${id}`),
    400,
  ],
  "after of batches": [
    ({ batch }) => batch,
    ({ ask }) =>
      (id, client) =>
        ask(client, `/v1/batches?after=${id}`),
    400,
  ],
};

test.each(Object.entries(FIELDS))("%s of another key is unknown", async (_, [idOf, ask, status]) => {
  const tenants = await serveTenants();
  const [id, asked] = [idOf(tenants.ids), ask(tenants)];
  expect(await expectUnknown(id, asked)).toBe(status);
  expect((await asked(id, "ann")).status).toBe(200);
});

test("the items of a response are listed after an item of its own only", async () => {
  const { ask, ids } = await serveTenants();
  const { id } = (await (await ask("bob", "/v1/responses", { json: { input: "x", max_output_tokens: 1 } })).json()) as {
    readonly id: string;
  };
  const after: Ask = (item, client) => ask(client, `/v1/responses/${id}/input_items?after=${item}`);
  expect(await expectUnknown(ids.item, after)).toBe(404);
});

test("the fields that take ids are those that are tried here", () => {
  const names = new Set<string>();
  const collect = (schema: unknown): void => {
    if (typeof schema !== "object" || schema === null) return;
    if ("properties" in schema) for (const name of Object.keys(schema.properties as object)) names.add(name);
    for (const value of Object.values(schema)) collect(value);
  };
  const { schemas } = openApiDocument({ hasBatches: true, hasOperators: true }).components;
  for (const [name, schema] of Object.entries(schemas)) if (name.endsWith("Request")) collect(schema);
  expect([...names].filter((name) => /(^|_)ids?$/.test(name)).toSorted()).toStrictEqual([
    // Names within a conversation.
    "call_id",
    // Ids of items, also in references.
    "id",
    "input_file_id",
    "previous_response_id",
    // Token ids.
    "stop_token_ids",
    // Names within a conversation.
    "tool_call_id",
    "tool_use_id",
    // Any name of the client's own user.
    "user_id",
  ]);
});

test("a response that another key generates can be neither read, cancelled, followed nor changed", async () => {
  const { ask } = await serveTenants();
  const body = { input: "Secret", instructions: "Ann's", max_output_tokens: ENDLESS_ANSWER, stream: true };
  const stream = await ask("ann", "/v1/responses", { json: body });
  const reader = stream.body?.getReader();
  const begun = new TextDecoder().decode((await reader?.read())?.value);
  const id = /"id":"(resp_\w+)"/.exec(begun)?.[1] ?? "";
  const read = async (): Promise<object> => (await (await ask("ann", `/v1/responses/${id}`)).json()) as object;
  const before = await read();
  expect(before).toMatchObject({ id, status: "in_progress", instructions: "Ann's" });
  const followed = (own: object): Ask => {
    return (one, client) =>
      ask(client, "/v1/responses", {
        json: { ...body, ...own },
        headers: { "last-event-id": `${one}:1:1:${"0".repeat(16)}` },
      });
  };
  const attempts: readonly Ask[] = [
    (one, client) => ask(client, `/v1/responses/${one}`),
    (one, client) => ask(client, `/v1/responses/${one}`, { method: "DELETE" }),
    (one, client) => ask(client, `/v1/responses/${one}/cancel`, { method: "POST" }),
    (one, client) => ask(client, `/v1/responses/${one}/input_items`),
    followed({}),
    followed({ instructions: "Bob's" }),
    followed({ instructions: "Bob's", stream: false }),
  ];
  for (const attempt of attempts) expect(await expectUnknown(id, attempt)).toBe(404);
  expect(await read()).toStrictEqual(before);
  expect((await ask("ann", `/v1/responses/${id}/cancel`, { method: "POST" })).status).toBe(200);
  await reader?.cancel();
});

function statusesOf(lines: readonly object[]): readonly unknown[] {
  return lines.map((line) => (line as { response: { status_code: number } }).response.status_code);
}

test("lines of a batch name what its own key has", async () => {
  const { ask, ids } = await serveTenants();
  const upload = async (client: Client): Promise<readonly object[]> => {
    const bodies = [ids.response, unknownOf(ids.response)].flatMap((id, index) => [
      { input: "x", max_output_tokens: 1, previous_response_id: id },
      { input: [{ type: "item_reference", id: index === 0 ? ids.item : unknownOf(ids.item) }], max_output_tokens: 1 },
    ]);
    const form = new FormData();
    form.append("purpose", "batch");
    form.append("file", new Blob([batchFile({ bodies, endpoint: "/v1/responses" })]), "in.jsonl");
    const file = (await (await ask(client, "/v1/files", { method: "POST", body: form })).json()) as { id: string };
    const json = { input_file_id: file.id, endpoint: "/v1/responses", completion_window: "24h" };
    const { id } = (await (await ask(client, "/v1/batches", { json })).json()) as { id: string };
    for (;;) {
      const batch = (await (await ask(client, `/v1/batches/${id}`)).json()) as Record<string, string | null>;
      if (batch["status"] !== "completed") continue;
      const texts = await Promise.all(
        [batch["output_file_id"], batch["error_file_id"]].map(async (one) =>
          one == null ? "" : (await ask(client, `/v1/files/${one}/content`)).text(),
        ),
      );
      const lines = linesOf(texts.join(""));
      return lines
        .toSorted((a, b) => (a.custom_id < b.custom_id ? -1 : 1))
        .map(({ response, error }) => ({ response, error }));
    }
  };
  expect(statusesOf(await upload("bob"))).toStrictEqual([400, 404, 400, 404]);
  expect(statusesOf(await upload("ann"))).toStrictEqual([200, 200, 400, 404]);
}, 30_000);
