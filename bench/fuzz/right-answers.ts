// Checks that an answer with status 200 matches the documentation of its route.

import type { z } from "zod";
import {
  chatAnswer,
  chatChunk,
  completionAnswer,
  completionChunk,
  detokenizeAnswer,
  errorAnswer,
  modelAnswer,
  modelsAnswer,
  tokenizeAnswer,
} from "../../packages/express/src/api/answer-schemas.ts";
import { countTokensAnswer, messageAnswer, messageEvent } from "../../packages/express/src/messages/schemas.ts";
import {
  batchAnswer,
  batchesAnswer,
  deletedFile,
  fileAnswer,
  filesAnswer,
} from "../../packages/express/src/batches/schemas.ts";
import {
  deletedResponse,
  inputItemsAnswer,
  responseAnswer,
  responseEvent,
} from "../../packages/express/src/responses/schemas.ts";
import { healthAnswer, liveAnswer, readyAnswer, versionAnswer } from "../../packages/express/src/edge/operations.ts";
import { Scrape } from "../../test/support/prometheus.ts";
import type { HttpAnswer } from "./http-answers.ts";

const JSON_ROUTES: Readonly<Record<string, z.ZodType>> = {
  "/v1/chat/completions": chatAnswer,
  "/v1/completions": completionAnswer,
  "/v1/responses": responseAnswer,
  "/v1/messages": messageAnswer,
  "/v1/messages/count_tokens": countTokensAnswer,
  "/v1/models": modelsAnswer,
  "/tokenize": tokenizeAnswer,
  "/detokenize": detokenizeAnswer,
  "/health": healthAnswer,
  "/readyz": readyAnswer,
  "/livez": liveAnswer,
  "/version": versionAnswer,
};

/** Answers of routes whose path has a parameter, by method. */
const PARAMETRIC: readonly (readonly [route: RegExp, schemas: Readonly<Record<string, z.ZodType>>])[] = [
  [/^\/v1\/models\/.+$/, { GET: modelAnswer }],
  [/^\/v1\/responses\/[^/]+$/, { GET: responseAnswer, DELETE: deletedResponse }],
  [/^\/v1\/responses\/[^/]+\/input_items$/, { GET: inputItemsAnswer }],
  [/^\/v1\/responses\/[^/]+\/cancel$/, { POST: responseAnswer }],
  [/^\/v1\/files$/, { GET: filesAnswer, POST: fileAnswer }],
  [/^\/v1\/files\/[^/]+$/, { GET: fileAnswer, DELETE: deletedFile }],
  [/^\/v1\/batches$/, { GET: batchesAnswer, POST: batchAnswer }],
  [/^\/v1\/batches\/[^/]+$/, { GET: batchAnswer }],
  [/^\/v1\/batches\/[^/]+\/cancel$/, { POST: batchAnswer }],
];

const STREAMS: Readonly<Record<string, z.ZodType>> = {
  "/v1/chat/completions": chatChunk,
  "/v1/completions": completionChunk,
};

/** Events of streams that name their events, and the names that end them. */
const NAMED_STREAMS: Readonly<Record<string, readonly [schema: z.ZodType, last: RegExp]>> = {
  "/v1/responses": [responseEvent, /^response\.(completed|incomplete|failed)$/],
  "/v1/messages": [messageEvent, /^(message_stop|error)$/],
};

/** Operators' routes, which answer with a text. */
const CHANGES: ReadonlySet<string> = new Set(["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]);

/** @returns a description of the problem, if any */
export function wrongIn(answer: HttpAnswer, path: string, method = "GET"): string | undefined {
  const type = answer.headers.get("content-type") ?? "none";
  const text = answer.body.toString();
  // Node accepts several spaces between target and version.
  const target = path.trimEnd();
  const route = target.length > 1 ? target.toLowerCase().replace(/\/$/, "") : target;
  if (type === "text/event-stream" || type.startsWith("text/event-stream;")) {
    const named = NAMED_STREAMS[route];
    return named ? wrongInNamedStream(text, ...named) : wrongInStream(text, STREAMS[route]);
  }
  if (route === "/metrics") return problemOf(() => new Scrape(text));
  if (CHANGES.has(route))
    return /^Success: LoRA adapter '.+' (added|removed) successfully\.$/.test(text) ? undefined : text;
  if (/^\/v1\/files\/[^/]+\/content$/.test(route))
    return type === "application/jsonl" ? undefined : `content type ${type}`;
  if (!type.startsWith("application/json")) return `content type ${type}`;
  if (route === "/openapi.json") return problemOf(() => JSON.parse(text));
  const schema = JSON_ROUTES[route] ?? PARAMETRIC.find(([pattern]) => pattern.test(route))?.[1][method];
  return schema ? wrongUnder(schema, text) : `200 for ${path.slice(0, 100)}`;
}

function wrongInStream(text: string, chunk: z.ZodType | undefined): string | undefined {
  if (!chunk) return "a stream where there is none";
  const events = text.split("\n\n");
  if (events.pop() !== "") return "a stream that ends within an event";
  const data = events.filter((event) => !event.startsWith(":"));
  const last = data.at(-1);
  if (data.some((event) => !event.startsWith("data: ") || event.includes("\n")))
    return "an event that is no line of data";
  if (last === "data: [DONE]") data.pop();
  else if (!last?.startsWith('data: {"error"')) return "a stream without its end";
  return data
    .map((event) => event.slice("data: ".length))
    .map((line) => wrongUnder(line.startsWith('{"error"') ? errorAnswer : chunk, line))
    .find((problem) => problem !== undefined);
}

function wrongInNamedStream(text: string, schema: z.ZodType, last: RegExp): string | undefined {
  const events = text.split("\n\n");
  if (events.pop() !== "") return "a stream that ends within an event";
  const named = events
    .filter((event) => !event.startsWith(":"))
    .map((event) => /^event: (\S+)\ndata: (.*)$/.exec(event));
  if (named.some((event) => event === null)) return "an event without a name and a line of data";
  if (!last.test(named.at(-1)?.[1] ?? "")) return "a stream without its end";
  return named.map((event) => wrongUnder(schema, event?.[2] ?? "")).find((problem) => problem !== undefined);
}

/** Checks a JSON text against a schema. @returns a description of the problem, if any */
export function wrongUnder(schema: z.ZodType, text: string): string | undefined {
  return problemOf(() => schema.parse(JSON.parse(text)));
}

function problemOf(call: () => unknown): string | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message.replaceAll(/\s+/g, " ").slice(0, 300) : String(error);
  }
}
