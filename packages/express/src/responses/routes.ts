// Routes that read, remove and cancel responses.

import type { Incoming, Reply } from "../http/border.ts";
import { unsupported } from "../http/errors.ts";
import { listPage, pageOf } from "../http/page.ts";
import { clientName, idOf } from "../http/request.ts";
import { cancelled, itemNotFound, notRunning, responseNotFound } from "./refusals.ts";
import type { Item, KeptResponse, ResponseStore } from "./store.ts";

/** A store, and the request that names one of its responses. */
export interface StoredRequest {
  readonly store: ResponseStore;
  readonly request: Incoming;
  readonly response: Reply;
}

export function showResponse({ store, request, response }: StoredRequest): void {
  const { id, client } = named(request, response);
  if (request.query["stream"] === "true") throw unsupported("stream");
  const found = store.get(id, client)?.json ?? store.running(id, client);
  if (!found) throw responseNotFound(id);
  if (Buffer.isBuffer(found)) {
    response.setHeader("Content-Type", "application/json; charset=utf-8");
    response.setHeader("Content-Length", found.length);
    response.end(found);
  } else response.json(found);
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

/** Lists the items of a response's request, the last one first unless `order` is `asc`. */
export function listInputItems({ store, request, response }: StoredRequest): void {
  const { id, client } = named(request, response);
  const kept = store.get(id, client);
  if (!kept) throw responseNotFound(id);
  response.json(listPage(allItems(kept), pageOf(request, { most: 100, usual: 20 }), itemNotFound));
}

function allItems({ history, input }: KeptResponse): readonly Item[] {
  return [...history, ...input].map(({ item }) => item);
}

function named(request: Incoming, response: Reply): { readonly id: string; readonly client: string } {
  return { id: idOf(request), client: clientName(request, response) };
}
