// Checks that an answer with status 200 matches the documentation of its route.

import type { z } from "zod";
import { errorAnswer } from "../../packages/express/src/api/answer-schemas.ts";
import { compilePath, isMedia, type RouteDescription, schemaOf } from "../../packages/express/src/http/routes.ts";
import { ollamaError } from "../../packages/express/src/ollama/schemas.ts";
import { API_ROUTES, OPERATIONS_ROUTES } from "../../packages/express/src/routes.ts";
import { Scrape } from "../../test/support/prometheus.ts";
import type { HttpAnswer } from "./http-answers.ts";

type FoundRoute = RouteDescription & ReturnType<typeof compilePath>;

const ROUTES: readonly FoundRoute[] = [...API_ROUTES, ...OPERATIONS_ROUTES].flatMap((route) =>
  [route.path, ...(route.aliases ?? [])].map((path) => ({ ...route, path, ...compilePath(path) })),
);

/** Finds the routes of a path. Node accepts several spaces between target and version. */
export function routesAt(path: string): readonly FoundRoute[] {
  return ROUTES.filter(({ pattern }) => pattern.test(path.trimEnd()));
}

/** Names that end a stream whose events have names, by route. */
const LAST_EVENTS: Readonly<Record<string, RegExp>> = {
  "/v1/responses": /^response\.(completed|incomplete|failed)$/,
  "/v1/messages": /^(message_stop|error)$/,
};

/** Texts that operators' routes answer with. */
const CHANGED = /^Success: LoRA adapter '.+' (added|removed) successfully\.$/;

/** @returns a description of the problem, if any */
export function wrongIn(answer: HttpAnswer, path: string, method = "GET"): string | undefined {
  const type = answer.headers.get("content-type") ?? "none";
  const text = answer.body.toString();
  const route = routesAt(path).find((one) => one.method === method.toLowerCase());
  if (!route) return `200 for ${path.slice(0, 100)}`;
  if (type === "text/event-stream" || type.startsWith("text/event-stream;")) {
    const chunk = schemaOf(route.chunk);
    const last = LAST_EVENTS[route.path];
    return chunk && last ? wrongInNamedStream(text, chunk, last) : wrongInStream(text, chunk, route.path);
  }
  if (type.startsWith("application/x-ndjson")) return wrongInLines(text, schemaOf(route.chunk));
  if (route.path === "/metrics") return problemOf(() => new Scrape(text));
  if (isMedia(route.answer)) {
    if (route.answer.type === "text/plain") return CHANGED.test(text) ? undefined : text;
    if (!type.startsWith(route.answer.type)) return `content type ${type}`;
    return type.startsWith("application/json") ? problemOf(() => JSON.parse(text)) : undefined;
  }
  const schema = schemaOf(route.answer);
  if (!type.startsWith("application/json")) return `content type ${type}`;
  return schema && wrongUnder(schema, text);
}

function wrongInStream(text: string, chunk: z.ZodType | undefined, path: string): string | undefined {
  if (!chunk) return "a stream where there is none";
  const events = text.split("\n\n");
  if (events.pop() !== "") return "a stream that ends within an event";
  const data = events.filter((event) => !event.startsWith(":"));
  const last = data.at(-1);
  if (data.some((event) => !event.startsWith("data: ") || event.includes("\n")))
    return "an event that is no line of data";
  if (last === "data: [DONE]") data.pop();
  // The last object of llama.cpp's may have any of its fields.
  else if (path !== "/infill" && !last?.startsWith('data: {"error"')) return "a stream without its end";
  return data
    .map((event) => event.slice("data: ".length))
    .map((line) => wrongUnder(line.startsWith('{"error"') ? errorAnswer : chunk, line))
    .find((problem) => problem !== undefined);
}

const isError = (line: string): boolean => line.trimStart().startsWith('{"error"');

/** Checks a stream of Ollama's, whose last line says that it is the last. A space keeps the connection open. */
function wrongInLines(text: string, chunk: z.ZodType | undefined): string | undefined {
  if (!chunk) return "a stream where there is none";
  const lines = text.split("\n");
  if (lines.pop() !== "") return "a stream that ends within a line";
  const last = lines.at(-1) ?? "";
  if (!isError(last) && !last.includes('"done":true')) return "a stream without its end";
  return lines
    .map((line) => wrongUnder(isError(line) ? ollamaError : chunk, line))
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
