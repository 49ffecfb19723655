// Routes that read, remove and cancel responses.

import { sendRead, type ReadParts } from "../api/reads.ts";
import { unsupported } from "../http/errors.ts";
import { listPage, pageOf } from "../http/page.ts";
import { clientName, idOf } from "../http/request.ts";
import { sendJson } from "../http/reply.ts";
import { cancelled, itemNotFound, notRunning, responseNotFound } from "./refusals.ts";
import type { ResponseStore } from "./store.ts";

/** A store, and the request that names one of its responses. */
export interface StoredRequest extends ReadParts {
  readonly store: ResponseStore;
}

export function showResponse({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  if (parts.request.query["stream"] === "true") throw unsupported("stream");
  return sendRead(parts, () => {
    const found = store.get(id, client)?.json ?? store.running(id, client);
    if (!found) throw responseNotFound(id);
    return found;
  });
}

export function deleteResponse({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  if (!store.delete(id, client)) throw responseNotFound(id);
  return sendJson(parts.response, { id, object: "response", deleted: true }, parts.serving);
}

/** Ends a response that is being generated, and answers with what it has so far. */
export function cancelResponse({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  const running = store.running(id, client);
  if (running && store.cancel(id, client, cancelled())) {
    return sendJson(parts.response, { ...running, status: "cancelled" }, parts.serving);
  }
  throw store.get(id, client) ? notRunning(id) : responseNotFound(id);
}

/** Lists the items of a response's request, the last one first unless `order` is `asc`. */
export function listInputItems({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  return sendRead(parts, () => {
    const kept = store.get(id, client);
    if (!kept) throw responseNotFound(id);
    const items = [...kept.history, ...kept.input].map(({ item }) => item);
    return listPage(items, pageOf(parts.request, { most: 100, usual: 20 }), itemNotFound);
  });
}

function named({ request, response }: ReadParts): { readonly id: string; readonly client: string } {
  return { id: idOf(request), client: clientName(request, response) };
}
