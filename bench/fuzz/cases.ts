// Makes a case from a seed and a number: the bytes, their pieces, and how the client ends.

import {
  chat,
  completion,
  detokenize,
  loadAdapter,
  oddExpert,
  tokenize,
  unloadAdapter,
  wide,
  type KnownModel,
} from "./bodies.ts";
import { countTokens, message, response } from "./chat-bodies.ts";
import { damaged, encoded, typed } from "./body-bytes.ts";
import { Chance } from "./chance.ts";
import type { Ask, FuzzCase, Piece } from "./fuzz-case.ts";
import { odd } from "./head-mutations.ts";
import { mutated } from "./json-mutations.ts";
import { textOf, treeOf } from "./json-tree.ts";
import { CLOSE, HOST, JSON_TYPE, requestBytes, type RequestParts } from "./request-bytes.ts";
import { storedRequest, STORING_CLIENT, type StoringModel } from "./stored.ts";

interface Route {
  readonly path: string;
  readonly body?: (chance: Chance, model: KnownModel) => object;
  readonly isGeneration?: boolean;
  /** Whether the operator's key opens it. Its answer depends on other requests. */
  readonly isOperators?: boolean;
}

type Post = Route & Required<Pick<Route, "body">>;

const POSTS: readonly (readonly [number, Post])[] = [
  [4, { path: "/v1/completions", body: completion, isGeneration: true }],
  [4, { path: "/v1/chat/completions", body: chat, isGeneration: true }],
  [4, { path: "/v1/responses", body: response, isGeneration: true }],
  [4, { path: "/v1/messages", body: message, isGeneration: true }],
  [1, { path: "/v1/messages/count_tokens", body: countTokens }],
  [2, { path: "/tokenize", body: tokenize }],
  [1, { path: "/detokenize", body: detokenize }],
];

const OPERATORS: readonly (readonly [number, Post])[] = [
  [1, { path: "/v1/load_lora_adapter", body: loadAdapter, isOperators: true }],
  [0.5, { path: "/v1/unload_lora_adapter", body: unloadAdapter, isOperators: true }],
];

/** Picks a route with a body. Operators' routes do not exist on every server. */
function post({ chance, model }: Making): Post {
  return chance.weighted(model.operatorKey === undefined ? POSTS : [...POSTS, ...OPERATORS]);
}

/** Returns the header with the operator's key, which a client sometimes forgets. */
function keyOf({ isOperators = false }: Route, { chance, model }: Making): readonly string[] {
  return isOperators && chance.happens(0.9) ? [`Authorization: Bearer ${model.operatorKey}`] : [];
}

const GETS: readonly (readonly [number, Route])[] = [
  ...["/v1/models", "/health", "/readyz", "/livez", "/version"].map((path) => [2, { path }] as const),
  ...["/openapi.json", "/metrics", "/v1/nothing", "/v1/responses/nothing", "/nothing"].map(
    (path) => [0.5, { path }] as const,
  ),
];

type Made = Pick<FuzzCase, "kind" | "asks" | "pieces" | "ending" | "isSound" | "from">;
interface Making {
  readonly chance: Chance;
  readonly model: StoringModel;
  /** Prefix of the ids of the case's requests. */
  readonly id: string;
}

const whole = (bytes: Buffer): readonly Piece[] => [{ bytes, waitMs: 0 }];
const headersOf = (id: string, more: readonly string[]): readonly string[] => [HOST, `x-request-id: ${id}`, ...more];
const UNKNOWN = /nothing$/;

/** Makes a valid request of a known route. */
function right(making: Making, last: boolean, getShare = 0.15): { ask: Ask; parts: RequestParts } {
  const { chance, model, id } = making;
  const end = last ? [CLOSE] : [];
  if (chance.happens(getShare)) {
    const { path } = chance.weighted(GETS);
    const method = chance.happens(0.1) ? "HEAD" : "GET";
    const known = path === "/v1/models" && chance.happens(0.3) ? `/v1/models/${model.name}` : path;
    const query = chance.happens(0.1) ? "?a=%C3%A9&b" : "";
    const ask = { method, path: known, id, isRight: !UNKNOWN.test(path) };
    return { ask, parts: { method, target: known + query, headers: headersOf(id, end) } };
  }
  const route = post(making);
  const { path, body, isOperators = false } = route;
  const headers = headersOf(id, [JSON_TYPE, ...keyOf(route, making), ...end]);
  const parts = { method: "POST", target: path, headers };
  return {
    ask: { method: "POST", path, id, isRight: !isOperators },
    parts: { ...parts, body: Buffer.from(JSON.stringify(body(chance, model))) },
  };
}

/** Makes a request with the given body. */
function posted(
  making: Making,
  kind: string,
  change: (good: object) => Pick<RequestParts, "body"> & { headers?: readonly string[]; isRight?: boolean },
): Made {
  const { chance, model, id } = making;
  const route = post(making);
  const { path, body, isGeneration = false, isOperators = false } = route;
  const { headers = [JSON_TYPE], isRight = false, body: bytes } = change(body(chance, model));
  const parts = {
    method: "POST",
    target: path,
    headers: headersOf(id, [...headers, ...keyOf(route, making), CLOSE]),
    body: bytes ?? Buffer.alloc(0),
  };
  const ask = { method: "POST", path, id, isRight: isRight && !isOperators, mayBeLong: isGeneration && !isRight };
  return { kind, asks: [ask], pieces: whole(requestBytes(parts)), ending: "wait", isSound: true };
}

const bufferOf = (good: object): Buffer => Buffer.from(JSON.stringify(good));

const valid = (making: Making): Made => {
  const { ask, parts } = right(making, true);
  return { kind: "valid", asks: [ask], pieces: whole(requestBytes(parts)), ending: "wait", isSound: true };
};

const json = (making: Making): Made =>
  posted(making, "json", (good) => ({ body: Buffer.from(textOf(mutated(treeOf(good), making.chance))) }));

const bytes = (making: Making): Made =>
  posted(making, "bytes", (good) => ({ body: damaged(bufferOf(good), making.chance) }));

const encodings = (making: Making): Made =>
  posted(making, "encodings", (good) => {
    const { headers, ...rest } = encoded(bufferOf(good), making.chance);
    return { ...rest, headers: [JSON_TYPE, ...headers] };
  });

const types = (making: Making): Made => posted(making, "types", (good) => typed(bufferOf(good), making.chance));

const head = (making: Making): Made => {
  const { chance } = making;
  const { ask, parts } = right(making, true, 0.3);
  const { parts: changed, isSound } = odd(parts, chance);
  // The bytes after a body that ends early may contain a second request.
  const asks = [{ method: changed.method, path: pathOf(changed.target), id: making.id }];
  const ending = isSound && changed.target === ask.path ? "wait" : "quiet";
  return { kind: "head", asks, pieces: whole(requestBytes(changed)), ending, isSound };
};

/** Removes the query, and the host of a proxy request. */
function pathOf(target: string): string {
  return target.replace(/^https?:\/\/[^/]*/i, "").split("?")[0] ?? "";
}

/** Maximum of requests that may wait for the answer to an earlier one. */
const MAX_AHEAD = 16;

const pipeline = (making: Making): Made => {
  const { chance } = making;
  const count = chance.between(2, chance.happens(0.7) ? MAX_AHEAD + 1 : 40);
  const all = Array.from({ length: count }, (_, index) =>
    right({ ...making, id: `${making.id}-${index}` }, index === count - 1, 0.7),
  );
  const sent = all.map(({ parts }) => requestBytes(parts));
  const pieces = chance.happens(0.5) ? whole(Buffer.concat(sent)) : inPieces(Buffer.concat(sent), chance, 300);
  return { kind: "pipeline", asks: all.map(({ ask }) => ask), pieces, ending: "wait", isSound: count <= MAX_AHEAD + 1 };
};

/** Cuts bytes at random places, some with a pause before them. */
function inPieces(all: Buffer, chance: Chance, longest: number): readonly Piece[] {
  const pieces: Piece[] = [];
  for (let start = 0; start < all.length;) {
    const end = start + chance.between(1, longest);
    pieces.push({ bytes: all.subarray(start, end), waitMs: chance.happens(0.3) ? chance.below(4) : 0 });
    start = end;
  }
  return pieces;
}

const dribble = (making: Making): Made => {
  const { ask, parts } = right(making, true);
  const all = requestBytes(parts);
  return {
    kind: "dribble",
    asks: [ask],
    pieces: inPieces(all, making.chance, Math.ceil(all.length / 20)),
    ending: "wait",
    isSound: true,
  };
};

/** Ends the client's side early. Node treats such a client as gone and need not answer it. */
const halfClose = (making: Making): Made => ({ ...leaving(valid(making)), kind: "half-close", ending: "half-close" });

const leaving = (made: Made): Made => ({
  ...made,
  asks: made.asks.map((ask) => ({ ...ask, isRight: false })),
  isSound: false,
});

/** Makes a client that leaves before, during or after its answer. */
const leave = (making: Making): Made => {
  const { chance } = making;
  const { ask, parts } = right(making, true, 0.05);
  const all = requestBytes(parts);
  const cut = chance.happens(0.5) ? all.length : chance.below(all.length);
  const pieces = [...whole(all.subarray(0, cut)), { bytes: Buffer.alloc(0), waitMs: chance.below(30) }];
  const ending = chance.pick(["leave", "leave", "half-close"] as const);
  return leaving({ kind: "leave", asks: [ask], pieces, ending, isSound: false });
};

/** Makes a request about what one client has stored. */
const stored = ({ chance, model, id }: Making): Made => {
  const { method, path, query = "", body, contentType } = storedRequest(chance, model);
  const type = contentType === undefined ? JSON_TYPE : `Content-Type: ${contentType}`;
  const headers = headersOf(id, [...(body ? [type] : []), CLOSE]);
  const parts = { method, target: path + query, headers, ...(body && { body }) };
  const ask = { method, path, id, mayBeLong: path === "/v1/responses" };
  const pieces = whole(requestBytes(parts));
  return { kind: "stored", asks: [ask], pieces, ending: "wait", isSound: true, from: STORING_CLIENT };
};

const completed = (kind: string, body: (chance: Chance, model: KnownModel) => object, isRight: boolean) =>
  function made({ chance, model, id }: Making): Made {
    const path = "/v1/completions";
    const headers = headersOf(id, [JSON_TYPE, CLOSE]);
    const parts = { method: "POST", target: path, headers, body: bufferOf(body(chance, model)) };
    const ask = { method: "POST", path, id, isRight };
    return { kind, asks: [ask], pieces: whole(requestBytes(parts)), ending: "wait", isSound: true };
  };

const KINDS: readonly (readonly [weight: number, make: (making: Making) => Made])[] = [
  [20, valid],
  [38, json],
  [12, bytes],
  [5, encodings],
  [3, types],
  [15, head],
  [2, pipeline],
  [1.5, dribble],
  [1.5, halfClose],
  [3, leave],
  [12, stored],
  [2, completed("experts", oddExpert, false)],
  [1, completed("wide", wide, true)],
];

export function caseOf(seed: number, index: number, model: StoringModel): FuzzCase {
  const chance = Chance.ofCase(seed, index);
  return { seed, index, ...chance.weighted(KINDS)({ chance, model, id: `fuzz-${seed}-${index}` }) };
}
