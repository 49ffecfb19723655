// Requests about what a server stores for a client: responses with histories and references, files and batches.

import { request } from "node:http";
import { some, text, type KnownModel } from "./bodies.ts";
import { damaged } from "./body-bytes.ts";
import type { Chance } from "./chance.ts";
import { response } from "./chat-bodies.ts";

/** Ids of what one client has stored before a run. Requests of the run may remove it. */
export interface StoredIds {
  readonly responses: readonly string[];
  /** Items of those responses. */
  readonly items: readonly string[];
  readonly files: readonly string[];
  readonly batches: readonly string[];
}

/** Facts about a server that has something stored. */
export interface StoringModel extends KnownModel {
  readonly stored: StoredIds;
}

/** Address of the client that has stored something. All of 127.0.0.0/8 is local on Linux. */
export const STORING_CLIENT = process.platform === "linux" ? "127.0.2.1" : "127.0.0.1";

/** A request about stored things. Its answer depends on the requests before it. */
export interface StoredRequest {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: string;
  readonly query?: string;
  readonly body?: Buffer;
  /** @default JSON */
  readonly contentType?: string;
}

const ODD_IDS = ["nothing", "%00", "..", "__proto__", "resp_", "x".repeat(300), "%E2%82%AC", "file-", "batch_"];

const idOf = (chance: Chance, ids: readonly string[]): string =>
  chance.happens(0.2) || ids.length === 0 ? chance.pick(ODD_IDS) : chance.pick(ids);

function query(chance: Chance, ids: readonly string[]): string {
  const fields = some(chance, {
    limit: () => chance.pick(["1", "3", "100", "0", "-1", "1e3", "101", "x"]),
    order: () => chance.pick(["asc", "desc", "up"]),
    after: () => idOf(chance, ids),
    purpose: () => chance.pick(["batch", "batch_output", "none"]),
    stream: () => "false",
  });
  const pairs = Object.entries(fields).map(([name, value]) => `${name}=${String(value)}`);
  return pairs.length > 0 ? `?${pairs.join("&")}` : "";
}

/** Makes a response that continues stored ones, and refers to their items. */
function continued(chance: Chance, model: KnownModel, { responses, items }: StoredIds): object {
  const reference = (): object => ({ type: "item_reference", id: idOf(chance, items) });
  const own = { role: "user", content: text(chance), ...some(chance, { id: () => chance.pick(items) ?? "msg_1" }) };
  const input = [...chance.list(0, 5, reference), own];
  const previous = chance.happens(0.6) ? { previous_response_id: decodeURIComponent(idOf(chance, responses)) } : {};
  return { ...response(chance, model), input, truncation: "auto", store: chance.happens(0.7), ...previous };
}

const lineOf = (chance: Chance): string =>
  JSON.stringify({
    custom_id: chance.pick(["a", "b", "c", "é", "", "x".repeat(600), "__proto__"]),
    method: chance.happens(0.9) ? "POST" : "GET",
    url: chance.pick(["/v1/completions", "/v1/completions", "/v1/chat/completions", "/metrics"]),
    body: {
      prompt: text(chance),
      max_tokens: 1,
      ...some(chance, { logprobs: () => 20, n: () => 3, stream: () => true }),
    },
  });

const BOUNDARY = "fuzz";

/** Encodes a form with a file of lines. */
function form(chance: Chance): Buffer {
  const part = (head: string, content: string): string =>
    `--${BOUNDARY}\r\nContent-Disposition: form-data; ${head}\r\n\r\n${content}\r\n`;
  const lines = chance.list(0, 4, () => lineOf(chance)).join("\n");
  const all = [
    part(`name="purpose"`, chance.pick(["batch", "batch", "batch", "fine-tune"])),
    part(`name="file"; filename="${chance.pick(["a.jsonl", "../a", "é", ""])}"`, lines),
    ...(chance.happens(0.1) ? [part(`name="expires_after[seconds]"`, chance.pick(["3600", "-1", "x"]))] : []),
  ];
  const good = Buffer.from(`${(chance.happens(0.3) ? all.toReversed() : all).join("")}--${BOUNDARY}--\r\n`);
  return chance.happens(0.4) ? damaged(good, chance) : good;
}

const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

const jsonBytes = (value: object): Buffer => Buffer.from(JSON.stringify(value));

export function storedRequest(chance: Chance, model: StoringModel): StoredRequest {
  const { stored } = model;
  const { responses, items, files, batches } = stored;
  const responsePath = (): string => `/v1/responses/${idOf(chance, responses)}`;
  const filePath = (): string => `/v1/files/${idOf(chance, files)}`;
  const batchPath = (): string => `/v1/batches/${idOf(chance, batches)}`;
  const created = (): object => ({
    input_file_id: decodeURIComponent(idOf(chance, files)),
    endpoint: chance.pick(["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/x"]),
    completion_window: "24h",
    ...some(chance, { metadata: () => ({ a: text(chance) }) }),
  });
  return chance.weighted<() => StoredRequest>([
    [8, () => ({ method: "POST", path: "/v1/responses", body: jsonBytes(continued(chance, model, stored)) })],
    [4, () => ({ method: "GET", path: responsePath() })],
    [4, () => ({ method: "GET", path: `${responsePath()}/input_items`, query: query(chance, items) })],
    [0.1, () => ({ method: "DELETE", path: responsePath() })],
    [0.5, () => ({ method: "POST", path: `${responsePath()}/cancel` })],
    [2, () => ({ method: "POST", path: "/v1/files", body: form(chance), contentType: FORM_TYPE })],
    [1, () => ({ method: "GET", path: "/v1/files", query: query(chance, files) })],
    [1, () => ({ method: "GET", path: chance.happens(0.5) ? filePath() : `${filePath()}/content` })],
    [0.1, () => ({ method: "DELETE", path: filePath() })],
    [0.5, () => ({ method: "POST", path: "/v1/batches", body: jsonBytes(created()) })],
    [1, () => ({ method: "GET", path: "/v1/batches", query: query(chance, batches) })],
    [1, () => ({ method: "GET", path: batchPath() })],
    [0.2, () => ({ method: "POST", path: `${batchPath()}/cancel` })],
  ])();
}

const NUM_RESPONSES = 24;
const NUM_FILES = 4;

// oxlint-disable no-await-in-loop -- each response continues the one before
/** Stores responses that continue each other, files and batches as the storing client. */
export async function storeAll(port: number): Promise<StoredIds> {
  const ids: Record<keyof StoredIds, string[]> = { responses: [], items: [], files: [], batches: [] };
  for (let index = 0; index < NUM_RESPONSES; index++) {
    const items = Array.from({ length: 3 }, (_, at) => `stored-${index}-${at}`);
    const input = items.map((id) => ({ id, role: "user", content: "The ship" }));
    const previous = index % 6 === 0 ? {} : { previous_response_id: ids.responses.at(-1) };
    const body = JSON.stringify({ input, max_output_tokens: 2, truncation: "auto", ...previous });
    ids.responses.push(await send(port, "/v1/responses", body));
    ids.items.push(...items);
  }
  const line = { custom_id: "a", method: "POST", url: "/v1/completions", body: { prompt: "x", max_tokens: 2 } };
  const fields = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n`;
  const file = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n${JSON.stringify(line)}\r\n`;
  for (let index = 0; index < NUM_FILES; index++) {
    const id = await send(port, "/v1/files", `${fields}${file}--${BOUNDARY}--\r\n`, FORM_TYPE);
    ids.files.push(id);
    const body = JSON.stringify({ input_file_id: id, endpoint: "/v1/completions", completion_window: "24h" });
    ids.batches.push(await send(port, "/v1/batches", body));
  }
  return ids;
}

// oxlint-enable no-await-in-loop

/** Posts as the storing client. @returns the id of what was made */
function send(port: number, path: string, body: string, type = "application/json"): Promise<string> {
  const headers = { "content-type": type, "content-length": Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const options = { port, host: "127.0.0.1", localAddress: STORING_CLIENT, method: "POST", path, headers };
    const sent = request(options, (answer) => {
      let json = "";
      answer.setEncoding("utf8").on("data", (part: string) => (json += part));
      answer.once("end", () => {
        if (answer.statusCode === 200) resolve((JSON.parse(json) as { readonly id: string }).id);
        else reject(new Error(`Expected ${path} to be stored, got ${json}`));
      });
    });
    sent.once("error", reject).end(body);
  });
}
