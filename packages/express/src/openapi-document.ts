// The OpenAPI document of the API, made from the entries of its routes and the schemas that check requests.

import { z } from "zod";
import { errorAnswer } from "./api/answer-schemas.ts";
import type { ApiName } from "./http/request.ts";
import { isMedia, type Media, type Named, type RouteDescription } from "./http/routes.ts";
import { messagesError } from "./messages/schemas.ts";
import { ollamaError } from "./ollama/schemas.ts";
import { API_ROUTES, OPERATIONS_ROUTES, type RoutePart } from "./routes.ts";

/** An OpenAPI 3.1 document; its schemas are JSON Schema 2020-12. */
export interface OpenApiDocument {
  readonly openapi: "3.1.0";
  readonly info: { readonly title: string; readonly version: string };
  readonly paths: Readonly<Record<string, object>>;
  readonly components: { readonly schemas: Readonly<Record<string, object>> };
}

interface DescribedParts {
  readonly hasOperators?: boolean;
  readonly hasBatches?: boolean;
  readonly hasOllama?: boolean;
}

const ERRORS: Readonly<Record<ApiName, Named>> = {
  openai: { Error: errorAnswer },
  messages: { MessagesError: messagesError },
  ollama: { OllamaError: ollamaError },
};

/**
 * Describes every route of the API and of operations.
 *
 * @param options - `hasOperators`: whether operators may load experts; `hasBatches`: whether there are files and
 *   batches; `hasOllama`: whether there is Ollama's API; all by default false
 */
export function openApiDocument(options: DescribedParts = {}): OpenApiDocument {
  const { hasOperators: operators = false, hasBatches: batches = false, hasOllama: ollama = false } = options;
  return describeRoutes({ operators, batches, ollama });
}

/** Describes the routes of a server. @param has - tells which parts it has */
export function describeRoutes(has: Readonly<Record<RoutePart, boolean>>): OpenApiDocument {
  const api = API_ROUTES.filter(({ part }) => part === undefined || has[part]);
  const paths: Record<string, object> = {};
  for (const route of [...api, ...OPERATIONS_ROUTES]) {
    for (const path of [route.path, ...(route.aliases ?? [])]) {
      const name = path.replace(/[:*](\w+)/, "{$1}");
      paths[name] = { ...(name === path ? {} : ID_PARAMETER), ...paths[name], [route.method]: operationOf(route) };
    }
  }
  const named = Object.assign({}, ...[...api, ...OPERATIONS_ROUTES].flatMap(schemasOf)) as Named;
  const schemas = Object.fromEntries(Object.entries(named).map(([name, schema]) => [name, jsonSchema(schema)]));
  return { openapi: "3.1.0", info: { title: "readme-moe", version: "1" }, paths, components: { schemas } };
}

const ID_PARAMETER = { parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" } }] } as const;

function operationOf({ body, answer, chunk, unavailable, api = "openai" }: RouteDescription): object {
  const usual = chunk
    ? `The answer, or its chunks as ${api === "ollama" ? "lines" : "server-sent events"} where \`stream\` is true`
    : "The answer";
  const chunks = chunk && { [api === "ollama" ? "application/x-ndjson" : "text/event-stream"]: schemaOf(chunk) };
  const ok = {
    description: isMedia(answer) ? answer.description : usual,
    content: { ...contentOf(answer), ...chunks },
  };
  const error = { description: "The error", content: contentOf(ERRORS[api]) };
  return {
    ...(body && { requestBody: { required: true, content: contentOf(body) } }),
    responses: unavailable
      ? { "200": ok, "503": { description: "No", content: contentOf(unavailable) } }
      : { "200": ok, default: error },
  };
}

const FORM = {
  type: "object",
  required: ["file", "purpose"],
  properties: { file: { type: "string", format: "binary" }, purpose: { const: "batch" } },
} as const;

function contentOf(content: Named | Media): object {
  if (!isMedia(content)) return { "application/json": schemaOf(content) };
  const { type } = content;
  if (type === "multipart/form-data") return { [type]: { schema: FORM } };
  return { [type]: { schema: { type: type === "application/json" ? "object" : "string" } } };
}

function schemaOf(named: Named): object {
  return { schema: { $ref: `#/components/schemas/${Object.keys(named)[0]}` } };
}

function schemasOf({ body, answer, chunk, unavailable, api = "openai" }: RouteDescription): readonly object[] {
  return [body, answer, chunk, unavailable, ERRORS[api]].flatMap((one) => (one && !isMedia(one) ? [one] : []));
}

function jsonSchema(schema: z.ZodType): object {
  // Custom schemas bring their JSON Schema as metadata.
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
  return rest;
}
