// Attacks through what a server stores for a client: responses, files and batches.

import { setTimeout as sleep } from "node:timers/promises";
import type { Attack } from "./attacks.ts";
import { batchForm, call, head, HOSTILE_KEYS, open, sendUnread, type Target } from "./hostile-http.ts";

const RESPONSES = "/v1/responses";
const NUM_RESPONSES = 30;
const NUM_ITEMS = 4000;
const NUM_REFERENCES = 1000;
const MOST_ITEMS = 8192;
const CHAIN = 8;
const NUM_LINES = 50_000;
const LONG_ID = 490;
const UPLOADS = 8;

/** Sends a response of many short items. @returns its id, `undefined` where it is refused */
async function store(
  target: Target,
  signal: AbortSignal,
  { count, prefix, previous }: { readonly count: number; readonly prefix: string; readonly previous?: string },
): Promise<string | undefined> {
  const input = Array.from({ length: count }, (_, index) => ({ id: `${prefix}-${index}`, role: "user", content: "a" }));
  const body = { input, truncation: "auto", max_output_tokens: 16, store: true, previous_response_id: previous };
  const { status, json } = await call(target, { path: RESPONSES, body: JSON.stringify(body) }, signal);
  if (status !== 200) return undefined;
  const id = String(json["id"]);
  storedIds.add(id);
  return id;
}

let areItemsStored = false;

/** Responses that the attacks have stored. */
const storedIds = new Set<string>();

async function removeStored(target: Target): Promise<void> {
  const patience = AbortSignal.timeout(20_000);
  for (const id of storedIds) {
    // oxlint-disable-next-line no-await-in-loop -- cheap requests
    await call(target, { method: "DELETE", path: `${RESPONSES}/${id}` }, patience);
  }
  storedIds.clear();
  areItemsStored = false;
}

/** Refers a thousand times to an item of the last of many responses: the first may have been evicted. */
async function references(target: Target, signal: AbortSignal): Promise<void> {
  const missing = areItemsStored ? 0 : NUM_RESPONSES;
  for (let index = 0; index < missing && !signal.aborted; index++) {
    // oxlint-disable-next-line no-await-in-loop -- in order
    await store(target, signal, { count: NUM_ITEMS, prefix: `old-${index}` });
  }
  areItemsStored = true;
  const input = Array.from({ length: NUM_REFERENCES }, () => ({
    type: "item_reference",
    id: `old-${NUM_RESPONSES - 1}-0`,
  }));
  const body = JSON.stringify({ input, truncation: "auto", max_output_tokens: 16 });
  const { status } = await call(target, { path: RESPONSES, body }, signal);
  // The server may have evicted the response meanwhile.
  if (status === 404) areItemsStored = false;
}

/** Continues responses whose conversation grows by the most items of a request each time. */
async function chains(target: Target, signal: AbortSignal): Promise<void> {
  let previous: string | undefined;
  for (let index = 0; index < CHAIN && !signal.aborted; index++) {
    const more = { count: MOST_ITEMS, prefix: `chain-${index}`, ...(previous !== undefined && { previous }) };
    // oxlint-disable-next-line no-await-in-loop -- each continues the one before
    previous = (await store(target, signal, more)) ?? previous;
  }
  const body = JSON.stringify({
    input: "x",
    previous_response_id: previous,
    truncation: "auto",
    max_output_tokens: 16,
  });
  for (let index = 0; index < CHAIN && !signal.aborted; index++) {
    // oxlint-disable-next-line no-await-in-loop -- one after the other
    await call(target, { path: RESPONSES, body }, signal);
  }
}

/** A response with much to read: its metadata, and a message that its prompt has no room for. */
const LARGE = {
  input: [
    { role: "user", content: "y".repeat(2_000_000) },
    { role: "user", content: "x" },
  ],
  metadata: Object.fromEntries(Array.from({ length: 64 }, (_, index) => [`k${index}`, "z".repeat(512)])),
  truncation: "auto",
  max_output_tokens: 16,
};

/** Reads a large response on many connections whose answers are not taken. */
async function unreadResponses(target: Target, signal: AbortSignal): Promise<void> {
  const { json } = await call(target, { path: RESPONSES, body: JSON.stringify(LARGE) }, signal);
  storedIds.add(String(json["id"]));
  const path = `${RESPONSES}/${String(json["id"])}`;
  const message = (head("GET", path) + head("GET", `${path}/input_items`)).repeat(6);
  const sockets = await Promise.all(Array.from({ length: 200 }, () => sendUnread(target, message)));
  await sleep(2000, undefined, { signal }).catch(() => undefined);
  for (const socket of sockets) socket.destroy();
}

/** Uploads files of one byte a second, and begins again when they are cut. */
async function slowUploads(target: Target, signal: AbortSignal): Promise<void> {
  const type = "Content-Type: multipart/form-data; boundary=slow\r\n";
  const begin = head("POST", "/v1/files", 1_000_000).replace("Content-Type: application/json\r\n", type);
  const part = `--slow\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n`;
  const upload = async (): Promise<void> => {
    const socket = await open(target);
    socket.write(begin + part);
    socket.resume();
    while (!socket.destroyed && !signal.aborted) {
      socket.write("a");
      // oxlint-disable-next-line no-await-in-loop -- one byte a second
      await sleep(1000, undefined, { signal }).catch(() => undefined);
    }
    socket.destroy();
  };
  const again = async (): Promise<void> => {
    // oxlint-disable-next-line no-await-in-loop -- one upload after the other
    while (!signal.aborted) await upload();
  };
  await Promise.all(Array.from({ length: UPLOADS }, again));
}

/** Makes an input file whose lines differ in their ids. */
const linesOf = (count: number, idLength: number, body: object): string =>
  Array.from({ length: count }, (_, index) =>
    JSON.stringify({ custom_id: `${index}`.padStart(idLength, "i"), method: "POST", url: "/v1/completions", body }),
  ).join("\n");

/** Uploads a file, creates batches over it and cancels them after a while. */
async function runBatches(
  target: Target,
  signal: AbortSignal,
  { form, count, key }: { readonly form: FormData; readonly count: number; readonly key: string },
): Promise<void> {
  const { json: file } = await call(target, { path: "/v1/files", body: form, key }, signal);
  const body = JSON.stringify({
    input_file_id: file["id"],
    endpoint: "/v1/completions",
    completion_window: "24h",
  });
  const batches = await Promise.all(
    Array.from({ length: count }, () => call(target, { path: "/v1/batches", body, key }, signal)),
  );
  await sleep(8000, undefined, { signal }).catch(() => undefined);
  const patience = AbortSignal.timeout(20_000);
  await Promise.all(
    batches.map(({ json }) => call(target, { path: `/v1/batches/${String(json["id"])}/cancel`, key }, patience)),
  );
  await call(target, { method: "DELETE", path: `/v1/files/${String(file["id"])}`, key }, patience);
}

const LONG_IDS = linesOf(NUM_LINES, LONG_ID, { prompt: "x", max_tokens: 1 });
const WIDE_LINES = linesOf(20, 1, { prompt: "x", n: 32, max_tokens: 1000, logprobs: 20, ignore_eos: true });

export const STORED_ATTACKS: readonly Attack[] = [
  { name: "1,000 references to one of 120,000 kept items", round: references, after: removeStored },
  { name: "responses that continue eight of 8,192 items", round: chains, after: removeStored },
  {
    name: "kept responses read by 200 connections, 12 ahead on each, never taken",
    round: unreadResponses,
    after: removeStored,
  },
  { name: "8 uploads of one byte a second, begun again when cut", round: slowUploads },
  {
    name: "four batches of 50,000 lines with long ids, each of three keys",
    round: async (target, signal) => {
      await Promise.all(
        HOSTILE_KEYS.map((key) => runBatches(target, signal, { form: batchForm(LONG_IDS), count: 4, key })),
      );
    },
  },
  {
    name: "batches whose lines have 32 choices with log-probabilities",
    round: (target, signal) =>
      runBatches(target, signal, { form: batchForm(WIDE_LINES), count: 2, key: HOSTILE_KEYS[0] }),
  },
];
