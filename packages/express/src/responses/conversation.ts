// The conversation of a request: items of kept responses that it continues, and its own. Where it is longer than the
// context or a request may be, the oldest turns are left out. A turn begins with a message of the user, so that no
// result of a tool is left without its call. Messages of the system always stay.

import { numPartsOf } from "../api/body.ts";
import type { ChatBody } from "../api/request-schemas.ts";
import { type ApiError, invalid, refusal, shownId } from "../http/errors.ts";
import { LIMITS } from "../limits.ts";
import { CANCELLED, newItemId } from "./format.ts";
import type { ResponsesBody } from "./schemas.ts";
import type { Item, KeptItem, ResponseStore, Size } from "./store.ts";

interface Conversation {
  /** Items of earlier responses. */
  readonly history: readonly KeptItem[];
  /** Items of the request, with those that it refers to. */
  readonly input: readonly Item[];
  /** Bytes of the items that are not in the body. */
  readonly keptBytes: number;
}

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

function historyOf({ previous_response_id: id }: ResponsesBody, { store, client }: Sources): readonly KeptItem[] {
  if (id == null) return [];
  const previous = store.get(id, client);
  if (!previous) throw previousNotFound(id);
  return [...previous.history, ...previous.input, ...previous.output];
}

function itemsOf({ input }: ResponsesBody): Exclude<ResponsesBody["input"], string> {
  return typeof input === "string" ? [{ type: "message", role: "user", content: input }] : input;
}

type Messages = ChatBody["messages"];

/** Work to render a message beside its characters, in characters. */
const MESSAGE_WORK = 512;
/** Tokens for each unit of work, before a rendering has shown them. */
const LIKELY_RATE = 1 / 4;
/** Turns that are tried by estimates, before the search halves what is left. */
const MAX_ESTIMATES = 4;

interface SearchLimits {
  /** Most tokens of the messages that stay. */
  readonly maxTokens: number;
  /** Characters of all renderings beside a first one of the whole conversation, and 512 for each message. */
  readonly maxWork: number;
  /** Most messages of a conversation that is rendered whole at first: longer ones hardly fit. */
  readonly likelyMessages: number;
}

/**
 * Leaves out the fewest of the oldest turns so that the rest fits. The last turn always stays. Leaves out more turns
 * than needed where further renderings would exceed `maxWork`. Renderings block the engine, so the tokens of earlier
 * ones predict which turns fit.
 *
 * @param tokensOf - renders messages, and counts their tokens: a number above `maxTokens` where they are more. Shorter
 *   ones have fewer
 */
export async function fittingMessages(
  messages: Messages,
  tokensOf: (messages: Messages) => Promise<number>,
  { maxTokens, maxWork, likelyMessages }: SearchLimits,
): Promise<Messages> {
  const ofUser = messages.flatMap(({ role }, index) => (role === "user" ? [index] : []));
  // The first turn stands for the whole conversation.
  const starts = [0, ...ofUser.slice(1)];
  const isLikely = messages.length <= likelyMessages;
  if (starts.length === 1 || (isLikely && (await tokensOf(messages)) <= maxTokens)) return messages;
  const works = worksFrom(messages, starts);
  const from = (turn: number): Messages =>
    messages.filter((message, index) => index >= (starts[turn] ?? 0) || isOfSystem(message));
  let [low, high, left] = [isLikely ? 1 : 0, starts.length - 1, maxWork];
  let known = { work: 0, tokens: 0 };
  let rate = LIKELY_RATE;
  for (let attempt = 0; low < high; attempt++) {
    const room = known.work + (maxTokens - known.tokens) / rate;
    const estimated = works.findIndex((work, turn) => turn >= low && (work <= room || turn === high - 1));
    const turn = attempt < MAX_ESTIMATES ? estimated : Math.floor((low + high) / 2);
    const work = works[turn] ?? 0;
    const isCheap = work <= left;
    if (isCheap) left -= work;
    const tokens = isCheap ? await tokensOf(from(turn)) : Infinity;
    if (tokens <= maxTokens) {
      high = turn;
      rate = Math.max(tokens - known.tokens, 1) / Math.max(work - known.work, 1);
      known = { work, tokens };
    } else {
      low = turn + 1;
      if (known.work === 0) rate *= 2;
    }
  }
  return from(high);
}

/** Computes the work to render the messages that stay from each turn on. */
function worksFrom(messages: Messages, starts: readonly number[]): readonly number[] {
  const works: number[] = [];
  let after = 0;
  let turn = starts.length - 1;
  let ofSystem = 0;
  const own = messages.map((message) => MESSAGE_WORK + JSON.stringify(message).length);
  for (const [index, message] of messages.entries()) if (isOfSystem(message)) ofSystem += own[index] ?? 0;
  for (const [index, message] of [...messages.entries()].toReversed()) {
    if (isOfSystem(message)) ofSystem -= own[index] ?? 0;
    after += own[index] ?? 0;
    if (index !== starts[turn]) continue;
    works[turn] = after + ofSystem;
    turn--;
  }
  return works;
}

/** Leaves out the fewest of the oldest turns of kept items so that the rest has room. */
function fittingHistory(history: readonly KeptItem[], room: Size): readonly KeptItem[] {
  let { bytes, numParts } = room;
  const hasRoom = (kept: KeptItem): boolean => {
    bytes -= kept.bytes;
    numParts -= kept.numParts;
    return bytes >= 0 && numParts >= 0;
  };
  for (const kept of history) if (isOfSystem(kept.item)) hasRoom(kept);
  const others = history.filter(({ item }) => !isOfSystem(item)).toReversed();
  const numFitting = others.findIndex((kept) => !hasRoom(kept));
  if (numFitting === -1) return history;
  const first = others.slice(0, numFitting).findLast(({ item }) => item.type === "message" && item.role === "user");
  const start = first ? history.indexOf(first) : history.length;
  return history.filter(({ item }, index) => index >= start || isOfSystem(item));
}

function isOfSystem(message: object): boolean {
  return "role" in message && (message.role === "system" || message.role === "developer");
}

export const responseNotFound = (id: string): ApiError =>
  refusal(404, "response_not_found", `Response with id '${shownId(id)}' not found.`);

export const itemNotFound = (id: string): ApiError =>
  refusal(404, "item_not_found", `Item with id '${shownId(id)}' not found.`, { param: "input" });

const previousNotFound = (id: string): ApiError =>
  refusal(400, "previous_response_not_found", `Previous response with id '${shownId(id)}' not found.`, {
    param: "previous_response_id",
  });

const conversationTooLong = (maxItems: number): ApiError =>
  invalid("input", `expected at most ${maxItems} items and parts, with those of the responses that it continues`);

function conversationTooLarge(maxBytes: number): ApiError {
  const message = `The request has more than ${maxBytes} bytes with the items of the responses that it continues.`;
  return refusal(413, "request_too_large", message, { param: "input" });
}

export const notRunning = (id: string): ApiError =>
  refusal(400, "invalid_value", `Response with id '${shownId(id)}' has ended, and cannot be cancelled.`, {
    param: "response_id",
  });

/** Creates the reason that ends a response whose client cancels it. */
export const cancelled = (): ApiError => refusal(409, CANCELLED, "The response was cancelled.");
