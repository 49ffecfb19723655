// Routes that read, remove and cancel responses.

import type { Incoming, Reply } from "../http/border.ts";
import { clientName } from "../http/request.ts";
import { invalid, unsupported } from "../http/errors.ts";
import { cancelled, itemNotFound, notRunning, responseNotFound } from "./refusals.ts";
import type { KeptResponse, ResponseStore } from "./store.ts";

/** A store, and the request that names one of its responses. */
export interface StoredRequest {
  readonly store: ResponseStore;
  readonly request: Incoming;
  readonly response: Reply;
}

export function showResponse({ store, request, response }: StoredRequest): void {
  const { id, client } = named(request, response);
  if (request.query["stream"] === "true") throw unsupported("stream");
  const found = store.get(id, client)?.response ?? store.running(id, client);
  if (!found) throw responseNotFound(id);
  response.json(found);
}

export function deleteResponse({ store, request, response }: StoredRequest): void {
  const { id, client } = named(request, response);
  if (!store.delete(id, client)) throw responseNotFound(id);
  response.json({ id, object: "response", deleted: true });
}

/** Ends a response that is being generated, and answers with what it has so far. */
export function cancelResponse({ store, request, response }: StoredRequest): void {
  const { id, client } = named(request, response);
  const running = store.running(id, client);
  if (running && store.cancel(id, client, cancelled())) {
    response.json({ ...running, status: "cancelled" });
    return;
  }
  throw store.get(id, client) ? notRunning(id) : responseNotFound(id);
}

const [DEFAULT_ITEMS, MAX_ITEMS] = [20, 100];

/** Lists the items of a response's request, the last one first unless `order` is `asc`. */
export function listInputItems({ store, request, response }: StoredRequest): void {
  const { id, client } = named(request, response);
  const kept = store.get(id, client);
  if (!kept) throw responseNotFound(id);
  const { limit, order, after } = pageOf(request);
  const items = order === "asc" ? allItems(kept) : allItems(kept).toReversed();
  const start = after === undefined ? 0 : items.findIndex((item) => item.id === after) + 1;
  if (after !== undefined && start === 0) throw itemNotFound(after);
  const data = items.slice(start, start + limit);
  const ids = { first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null };
  response.json({ object: "list", data, ...ids, has_more: start + limit < items.length });
}

function allItems({ history, input }: KeptResponse): KeptResponse["input"] {
  return [...history, ...input];
}

interface Page {
  readonly limit: number;
  readonly order: string;
  readonly after: string | undefined;
}

function pageOf({ query }: Incoming): Page {
  const { limit = String(DEFAULT_ITEMS), order = "desc", after } = query;
  const count = typeof limit === "string" && /^\d{1,3}$/.test(limit) ? Number(limit) : 0;
  if (count < 1 || count > MAX_ITEMS) throw invalid("limit", `expected an integer from 1 to ${MAX_ITEMS}`);
  if (order !== "asc" && order !== "desc") throw invalid("order", "expected asc or desc");
  if (after !== undefined && typeof after !== "string") throw invalid("after", "expected the id of an item");
  return { limit: count, order, after };
}

function named(request: Incoming, response: Reply): { readonly id: string; readonly client: string } {
  const { id } = request.params;
  return { id: typeof id === "string" ? id : "", client: clientName(request, response) };
}
