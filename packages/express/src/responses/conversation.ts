// The conversation of a request: items of kept responses that it continues, and its own.

import { numPartsOf } from "../api/check-body.ts";
import { LIMITS } from "../limits.ts";
import { newItemId } from "./format.ts";
import { conversationTooLarge, conversationTooLong, itemNotFound, previousNotFound } from "./refusals.ts";
import type { ResponsesBody } from "./request-schemas.ts";
import type { Item, KeptItem, ResponseStore, Size } from "./store.ts";
import { fittingHistory } from "./truncation.ts";

interface Conversation {
  /** Items of earlier responses. */
  readonly history: readonly KeptItem[];
  /** Items of the request, with those that it refers to. */
  readonly input: readonly Item[];
  /** Bytes of the items that are not in the body. */
  readonly keptBytes: number;
}

/** Store that items are looked up in, and the sizes of bodies. */
interface Sources {
  readonly store: ResponseStore;
  readonly client: string;
  readonly bodyBytes: number;
  readonly maxBodyBytes: number;
}

const PREFIXES = { message: "msg", function_call: "fc", function_call_output: "fco", reasoning: "rs" } as const;

/**
 * Collects the items of a conversation. It may have as many bytes and items as the body of a request that has all of
 * them.
 *
 * @throws {ApiError} 404 for an item that is not kept; 400 for a response that is not kept, and for too many items; 413
 */
export function conversationOf(body: ResponsesBody, sources: Sources): Conversation {
  const { store, client, bodyBytes, maxBodyBytes } = sources;
  const limits: Size = { bytes: maxBodyBytes - bodyBytes, numParts: LIMITS.messageItems.value };
  let room = limits;
  const take = (size: Size): void => {
    room = { bytes: room.bytes - size.bytes, numParts: room.numParts - size.numParts };
    if (room.numParts < 0) throw conversationTooLong(limits.numParts);
    if (size.bytes > 0 && room.bytes < 0) throw conversationTooLarge(maxBodyBytes);
  };
  const history = historyOf(body, sources);
  const known = new Set(history.map(({ item }) => item.id));
  const input = itemsOf(body).flatMap((item): readonly Item[] => {
    if (item.type !== "item_reference") {
      take({ bytes: 0, numParts: numPartsOf(item) });
      return [{ ...item, id: item.id ?? newItemId(PREFIXES[item.type]) }];
    }
    if (known.has(item.id)) return [];
    known.add(item.id);
    const found = store.item(item.id, client);
    if (!found) throw itemNotFound(item.id);
    take(found);
    return [found.item];
  });
  const fitting = body.truncation === "auto" ? fittingHistory(history, room) : history;
  for (const kept of fitting) take(kept);
  return { history: fitting, input, keptBytes: limits.bytes - room.bytes };
}

/** Returns the items of the response that the request continues, and of those before it. */
function historyOf({ previous_response_id: id }: ResponsesBody, { store, client }: Sources): readonly KeptItem[] {
  if (id == null) return [];
  const previous = store.get(id, client);
  if (!previous) throw previousNotFound(id);
  return [...previous.history, ...previous.input, ...previous.output];
}

function itemsOf({ input }: ResponsesBody): Exclude<ResponsesBody["input"], string> {
  return typeof input === "string" ? [{ type: "message", role: "user", content: input }] : input;
}
