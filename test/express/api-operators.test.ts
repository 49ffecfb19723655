// Operators load and unload experts, in the shapes of vLLM.

import { openApiDocument, readMe, ServedModels } from "@readme-moe/express";
import express from "express";
import * as fc from "../support/fast-check.ts";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { complete } from "../support/complete.ts";
import { openExpertEngine } from "../support/expert-engine.ts";
import {
  begin,
  CLIENT,
  ids,
  listenForTest,
  LOAD,
  OPERATOR,
  serveOperated,
  statusOf,
  told,
  UNLOAD,
  writeOperated,
  type OperatedFolders,
  type OperatedOptions,
} from "../support/operated-server.ts";
import { postJson } from "../support/post-json.ts";
import { valueOf, type JsonSchema } from "../support/schema-arbitrary.ts";
import { openSocket, readAll } from "../support/raw-http.ts";
import { openTinyEngine } from "../support/served-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

let folders: OperatedFolders;
beforeAll(async () => {
  folders = await writeOperated(await persistentFolder());
});

const serve = (more: Partial<OperatedOptions> = {}): ReturnType<typeof serveOperated> =>
  serveOperated({ ...folders, ...more });

describe("loading", () => {
  test("makes an expert answer, which unloading ends, with vLLM's answers", async () => {
    const server = await serve();
    expect(await statusOf(server, "base:legal")).toBe(404);
    expect(await server.load("legal", "legal")).toBe("200 Success: LoRA adapter 'legal' added successfully.");
    expect(await server.load("alias:support", "acme/support")).toMatch(/^200 .*'alias:support' added/);
    expect(await ids(server)).toEqual(["base", "alias", "base:legal", "alias:legal", "base:support", "alias:support"]);
    const { text } = await (await begin(server, "base:legal"))();
    const params = { maxTokens: 200, temperature: 0, ignoreEos: true };
    expect(text).toBe((await complete(server.engine, { prompt: "The ship", params, expert: "legal" })).text);
    expect(await server.unload("base:legal")).toBe("200 Success: LoRA adapter 'base:legal' removed successfully.");
    expect(await statusOf(server, "base:legal")).toBe(404);
    expect(await statusOf(server, "base:support")).toBe(200);
    expect(await ids(server)).toEqual(["base", "alias", "base:support", "alias:support"]);
    expect(await server.load("legal", "acme/support")).toMatch(/^200/);
  });

  test("is a text, and errors have the messages of vLLM", async () => {
    const { url, load, models } = await serve();
    const failures: unknown[] = [];
    models.events.on("request:failed", (event) => failures.push(event));
    const headers = { "content-type": "application/json", ...OPERATOR };
    const body = JSON.stringify({ lora_name: "legal", lora_path: "legal" });
    const response = await fetch(url + LOAD, { method: "POST", headers, body });
    expect(response.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    expect((await postJson(url + LOAD, { lora_name: "legal", lora_path: "legal" }, OPERATOR)).body).toEqual({
      error: {
        message: "The lora adapter 'legal' has already been loaded.",
        type: "InvalidUserInput",
        param: "lora_name",
        code: "adapter_exists",
      },
    });
    expect((await postJson(url + UNLOAD, { lora_name: "nobody" }, OPERATOR)).body).toEqual({
      error: {
        message: "The lora adapter 'nobody' cannot be found.",
        type: "NotFoundError",
        param: "lora_name",
        code: "adapter_not_found",
      },
    });
    expect(await load("dora", "dora")).toBe("400 adapter_refused");
    const refused = await postJson(url + LOAD, { lora_name: "dora", lora_path: "dora" }, OPERATOR);
    expect((refused.body["error"] as { message: string }).message).toMatch(/^dora\/adapter_config\.json: .*use_dora/);
    expect(failures).toEqual([]);
  });

  test("of wrong names and from wrong paths is refused, and changes nothing", async () => {
    const refused = [
      ["legal", "/etc", "403 forbidden_path"],
      ["legal", "../outside", "403 forbidden_path"],
      ["legal", "link", "403 forbidden_path"],
      ["legal", "nothing", "404 adapter_not_found"],
      ["legal", "empty", "404 adapter_not_found"],
      ["legal", "", "400 invalid_value"],
      ["legal", 7, "400 invalid_value"],
      ["legal", undefined, "400 missing_required_parameter"],
      [undefined, "legal", "400 missing_required_parameter"],
      ["", "legal", "400 invalid_value"],
      ["none", "legal", "400 invalid_value"],
      ["router", "legal", "400 invalid_value"],
      ["base:none", "legal", "400 invalid_value"],
      ["base", "legal", "400 invalid_value"],
      ["alias", "legal", "400 invalid_value"],
      ["../legal", "legal", "400 invalid_value"],
      ["other:legal", "legal", "404 model_not_found"],
      ["base:", "legal", "400 invalid_value"],
    ] as const;
    const server = await serve();
    const answers: (readonly unknown[])[] = [];
    // oxlint-disable-next-line no-await-in-loop -- one request after the other
    for (const [name, path] of refused) answers.push([name, path, await server.load(name, path)]);
    expect(answers).toStrictEqual(refused);
    expect(await ids(server)).toEqual(["base", "alias"]);
  });

  test("takes vLLM's fields that have no effect, and no others", async () => {
    const server = await serve();
    expect(await server.load("legal", "legal", { load_inplace: true })).toBe("400 unsupported_parameter");
    expect(await server.load("legal", "legal", { user: "x" })).toBe("400 unsupported_parameter");
    expect(await server.load("legal", "legal", { load_inplace: false })).toMatch(/^200/);
    expect(await server.unload("none")).toBe("404 adapter_not_found");
  });

  test("is refused by a model with experts of another kind", async () => {
    const moe = await openTinyEngine(await temporaryFolder());
    onTestFinished(() => moe.dispose());
    const experts = { operatorKeys: ["op-key"], folder: folders.adapters };
    const server = await listenForTest(express().use(readMe({ models: { moe }, experts })));
    expect(await told(server.url + LOAD, { lora_name: "legal", lora_path: "legal" })).toBe("400 invalid_value");
    expect(await told(server.url + UNLOAD, { lora_name: "domain-1" })).toBe("400 invalid_value");
  });

  test("needs a model's name where several are served and none is the default", async () => {
    const engine = await openExpertEngine(folders.model);
    onTestFinished(() => engine.dispose());
    const experts = { operatorKeys: ["op-key"], folder: folders.adapters };
    const loading = new Promise<never>(() => undefined);
    const server = await listenForTest(express().use(readMe({ models: { one: engine, two: loading }, experts })));
    const load = (lora_name: string): Promise<string> => told(server.url + LOAD, { lora_name, lora_path: "legal" });
    expect(await load("legal")).toBe("400 missing_model");
    expect(await load("one:legal")).toMatch(/^200/);
    expect(await load("two:legal")).toBe("503 model_loading");
  });
});

test("any request that the OpenAPI document allows gets a documented answer", async () => {
  const server = await serve();
  const { schemas } = openApiDocument({ hasOperators: true }).components;
  const paths = fc.oneof(fc.constantFrom("legal", "acme/support", "dora", "link", "empty", ".."), fc.string());
  const names = fc.oneof(fc.constantFrom("a", "base:b", "alias:c", "base", "other:a", "none"), fc.string());
  const requests = fc.oneof(
    fc.tuple(fc.constant(LOAD), fc.record({ lora_name: names, lora_path: paths })),
    fc.tuple(fc.constant(UNLOAD), fc.record({ lora_name: names })),
    fc.tuple(fc.constant(LOAD), valueOf(schemas["LoadAdapterRequest"] as JsonSchema)),
    fc.tuple(fc.constant(UNLOAD), valueOf(schemas["UnloadAdapterRequest"] as JsonSchema)),
  );
  const seen = new Set<string>();
  await fc.assert(
    fc.asyncProperty(requests, async ([path, body]) => {
      const answer = await told(server.url + path, body as object);
      expect(answer).toMatch(/^(200 Success|400|403 forbidden_path|404)/);
      seen.add(answer.slice(0, 3));
    }),
    { numRuns: 200 },
  );
  expect([...seen].toSorted()).toEqual(["200", "400", "403", "404"]);
  for (const name of server.engine.info.experts) expect(name).toMatch(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/);
});

describe("the operator's key", () => {
  test("opens these routes alone, and clients' keys do not open them", async () => {
    const { url } = await serve();
    const body = { lora_name: "legal", lora_path: "legal" };
    for (const path of [LOAD, UNLOAD]) {
      expect(await told(url + path, body, CLIENT)).toBe("401 invalid_api_key");
      expect(await told(url + path, body, {})).toBe("401 invalid_api_key");
      expect(await told(url + path, body, { authorization: "Bearer op-key2" })).toBe("401 invalid_api_key");
    }
    expect(await told(`${url}/v1/completions`, { prompt: "x" }, OPERATOR)).toBe("401 invalid_api_key");
    expect((await fetch(`${url}/v1/models`, { headers: OPERATOR })).status).toBe(401);
    const get = await fetch(url + LOAD, { headers: OPERATOR });
    expect([get.status, get.headers.get("allow")]).toEqual([405, "POST"]);
  });

  test("is asked for before the body is read, and the body is small", async () => {
    const { url, port, load } = await serve();
    expect(await told(url + LOAD, { lora_name: "x".repeat(20_000) }, CLIENT)).toBe("401 invalid_api_key");
    expect(await load("x".repeat(20_000), "legal")).toBe("413 request_too_large");
    // A length that is only declared does not make the next bodies wait.
    const authorization = `Authorization: ${OPERATOR.authorization}`;
    const head = `POST ${LOAD} HTTP/1.1\r\nHost: x\r\n${authorization}\r\nContent-Type: application/json\r\n`;
    const socket = await openSocket(port);
    socket.write(`${head}Content-Length: 999999999999\r\n\r\n{`);
    expect(await readAll(socket)).toContain("413");
    expect(await load("legal", "legal")).toMatch(/^200/);
  });

  test("is a path that does not exist where nobody is an operator", async () => {
    const { url } = await serve({ options: { experts: undefined } });
    const nothing = await postJson(`${url}/v1/nothing`, {}, CLIENT);
    for (const path of [LOAD, UNLOAD]) {
      for (const headers of [CLIENT, OPERATOR]) {
        const { status, body } = await postJson(url + path, { lora_name: "a", lora_path: "b" }, headers);
        const other = await postJson(`${url}/v1/nothing`, {}, headers);
        expect(status).toBe(other.status);
        expect(JSON.stringify(body)).toBe(JSON.stringify(other.body).replace("/v1/nothing", path));
      }
    }
    expect(nothing).toMatchObject({ status: 404, body: { error: { code: "unknown_url" } } });
    expect(await (await fetch(`${url}/openapi.json`, { headers: CLIENT })).text()).not.toContain("lora");
    expect(JSON.stringify(openApiDocument())).not.toContain("lora");
  });

  test("has routes in the OpenAPI document where there are operators", async () => {
    const { url } = await serve();
    const document: unknown = await (await fetch(`${url}/openapi.json`, { headers: CLIENT })).json();
    expect(document).toEqual(openApiDocument({ hasOperators: true }));
    expect(document).toHaveProperty(["paths", LOAD]);
    expect(document).toHaveProperty(["components", "schemas", "UnloadAdapterRequest"]);
  });

  test.each([
    [{ operatorKeys: ["op"] }, "`experts.folder` together"],
    [{ folder: "." }, "`experts.operatorKeys` and"],
    [{ operatorKeys: [], folder: "." }, "`experts.operatorKeys` to have at least one key"],
    [{ operatorKeys: ["a", "a"], folder: "." }, "`experts.operatorKeys` to be distinct"],
    [{ operatorKeys: ["sk-client"], folder: "." }, "`experts.operatorKeys` to differ from `keys`"],
    [{ operatorKeys: ["op"], folder: "./nothing" }, "`experts.folder`"],
    [{ permit: "all" }, "`experts.permit`"],
    [{ operators: ["op"] }, "did you mean `operatorKeys`"],
  ])("is checked when the server is made: %j", (experts, part) => {
    const models = new ServedModels({ base: new Promise<never>(() => undefined) });
    expect(() => readMe({ models, keys: ["sk-client"], experts: experts as never })).toThrow(part);
  });
});
