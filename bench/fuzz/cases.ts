// Makes a case from a seed and a number: the bytes, their pieces, and how the client ends.

import { schemaOf } from "../../packages/express/src/http/routes.ts";
import { API_ROUTES, OPERATIONS_ROUTES, type RoutePart } from "../../packages/express/src/routes.ts";
import {
  chat,
  classifying,
  completion,
  detokenize,
  embeddings,
  fillIn,
  infill,
  loadAdapter,
  oddExpert,
  ranking,
  scoring,
  teiEmbed,
  teiPredict,
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
import { ollamaChat, ollamaEmbed, ollamaEmbedOne, ollamaGenerate, ollamaShow } from "./ollama-bodies.ts";
import { storedRequest, STORING_CLIENT, type StoringModel } from "./stored.ts";

type MakeBody = (chance: Chance, model: KnownModel) => object;

/** A route with a body. */
interface Post {
  readonly path: string;
  readonly part?: RoutePart | undefined;
  readonly isGeneration: boolean;
  readonly body: MakeBody;
  /** Whether the API must accept every valid body. */
  readonly isRight: (model: KnownModel) => boolean;
}

/** Weights and bodies of the routes that take JSON. */
const BODIES: Readonly<Record<string, readonly [weight: number, body: MakeBody]>> = {
  "/v1/chat/completions": [4, chat],
  "/v1/completions": [4, completion],
  "/v1/fim/completions": [2, fillIn],
  "/infill": [2, infill],
  "/v1/responses": [4, response],
  "/v1/messages": [4, message],
  "/v1/messages/count_tokens": [1, countTokens],
  "/v1/embeddings": [0.5, embeddings],
  "/v1/rerank": [0.5, ranking],
  "/v1/score": [0.3, scoring],
  "/embed": [0.3, teiEmbed],
  "/classify": [0.3, classifying],
  "/predict": [0.3, teiPredict],
  "/tokenize": [2, tokenize],
  "/detokenize": [1, detokenize],
  "/api/chat": [2, ollamaChat],
  "/api/generate": [2, ollamaGenerate],
  "/api/embed": [0.3, ollamaEmbed],
  "/api/embeddings": [0.3, ollamaEmbedOne],
  "/api/show": [0.3, ollamaShow],
  "/v1/load_lora_adapter": [1, loadAdapter],
  "/v1/unload_lora_adapter": [0.5, unloadAdapter],
};

/** Routes that fill gaps, which needs marks in the vocabulary. */
const FILLING: ReadonlySet<string> = new Set(["/v1/fim/completions", "/infill"]);

/** Routes that take JSON under each of their paths. Those of batches are asked for what is stored. */
const POSTS: readonly (readonly [number, Post])[] = API_ROUTES.filter(
  ({ body, part }) => schemaOf(body) && part !== "batches",
).flatMap(({ path, aliases = [], part, task }) => {
  const found = BODIES[path];
  if (!found) throw new TypeError(`Expected bodies for the route ${path}`);
  const [weight, body] = found;
  const isRight = ({ fillsIn }: KnownModel): boolean =>
    part !== "operators" && (task ?? "generate") === "generate" && (fillsIn || !FILLING.has(path));
  const all = [path, ...aliases];
  return all.map(
    (one) => [weight / all.length, { path: one, part, isGeneration: task === "generate", body, isRight }] as const,
  );
});

/** Picks a route with a body. Operators' routes do not exist on every server, and their answers depend on others. */
function post({ chance, model }: Making): Post {
  const hasOperator = model.operatorKey !== undefined;
  return chance.weighted(hasOperator ? POSTS : POSTS.filter(([, { part }]) => part !== "operators"));
}

/** Returns the header with the operator's key, which a client sometimes forgets. */
function keyOf({ part }: Post, { chance, model }: Making): readonly string[] {
  return part === "operators" && chance.happens(0.9) ? [`Authorization: Bearer ${model.operatorKey}`] : [];
}

const READS = [...API_ROUTES, ...OPERATIONS_ROUTES].filter(
  ({ method, path }) => method === "get" && !/[:*]/.test(path) && path !== "/v1/files" && path !== "/v1/batches",
);
/** Paths whose answers are long, and paths without a route. */
const RARE = ["/openapi.json", "/metrics", "/v1/nothing", "/v1/responses/nothing", "/nothing"];

const GETS: readonly (readonly [number, string])[] = [
  ...READS.filter(({ path }) => !RARE.includes(path)).map(({ path }) => [2, path] as const),
  ...RARE.map((path) => [0.5, path] as const),
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
    const path = chance.weighted(GETS);
    const method = chance.happens(0.1) ? "HEAD" : "GET";
    const known = path === "/v1/models" && chance.happens(0.3) ? `/v1/models/${model.name}` : path;
    const query = chance.happens(0.1) ? "?a=%C3%A9&b" : "";
    const ask = { method, path: known, id, isRight: !UNKNOWN.test(path) };
    return { ask, parts: { method, target: known + query, headers: headersOf(id, end) } };
  }
  const route = post(making);
  const { path, body, isRight } = route;
  const headers = headersOf(id, [JSON_TYPE, ...keyOf(route, making), ...end]);
  const parts = { method: "POST", target: path, headers };
  return {
    ask: { method: "POST", path, id, isRight: isRight(model) },
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
  const { path, body, isGeneration } = route;
  const { headers = [JSON_TYPE], isRight = false, body: bytes } = change(body(chance, model));
  const parts = {
    method: "POST",
    target: path,
    headers: headersOf(id, [...headers, ...keyOf(route, making), CLOSE]),
    body: bytes ?? Buffer.alloc(0),
  };
  const ask = {
    method: "POST",
    path,
    id,
    isRight: isRight && route.isRight(model),
    mayBeLong: isGeneration && !isRight,
  };
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
