// Checks that an answer with status 200 matches the documentation of its route.

import type { z } from "zod";
import { errorAnswer } from "../../packages/express/src/api/answer-schemas.ts";
import { compilePath, isMedia, schemaOf } from "../../packages/express/src/http/routes.ts";
import { API_ROUTES, OPERATIONS_ROUTES } from "../../packages/express/src/routes.ts";
import { Scrape } from "../../test/support/prometheus.ts";
import type { HttpAnswer } from "./http-answers.ts";

const ROUTES = [...API_ROUTES, ...OPERATIONS_ROUTES].map((route) => ({ ...route, ...compilePath(route.path) }));

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
  // Node accepts several spaces between target and version.
  const target = path.trimEnd();
  const route = ROUTES.find((one) => one.method === method.toLowerCase() && one.pattern.test(target));
  if (!route) return `200 for ${path.slice(0, 100)}`;
  if (type === "text/event-stream" || type.startsWith("text/event-stream;")) {
    const chunk = schemaOf(route.chunk);
    const last = LAST_EVENTS[route.path];
    return chunk && last ? wrongInNamedStream(text, chunk, last) : wrongInStream(text, chunk);
  }
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
