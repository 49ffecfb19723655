// The OpenAPI document of the API, made from the schemas that check requests.

import { z } from "zod";
import { healthAnswer, liveAnswer, readyAnswer, unavailableAnswer, versionAnswer } from "./edge/operations.ts";
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
} from "./api/answer-schemas.ts";
import { batchAnswer, batchBody, batchesAnswer, deletedFile, fileAnswer, filesAnswer } from "./batches/schemas.ts";
import { embeddingsAnswer, embeddingsBody, rerankAnswer, rerankBody } from "./api/pooling-schemas.ts";
import {
  countTokensAnswer,
  countTokensBody,
  messageAnswer,
  messageEvent,
  messagesBody,
  messagesError,
} from "./messages/schemas.ts";
import {
  deletedResponse,
  inputItemsAnswer,
  responseAnswer,
  responseEvent,
  responsesBody,
} from "./responses/schemas.ts";
import {
  chatBody,
  completionBody,
  detokenizeBody,
  loadAdapterBody,
  tokenizeBody,
  unloadAdapterBody,
} from "./api/request-schemas.ts";

/** An OpenAPI 3.1 document; its schemas are JSON Schema 2020-12. */
export interface OpenApiDocument {
  readonly openapi: "3.1.0";
  readonly info: { readonly title: string; readonly version: string };
  readonly paths: Readonly<Record<string, object>>;
  readonly components: { readonly schemas: Readonly<Record<string, object>> };
}

const SCHEMAS = {
  ChatCompletionRequest: chatBody,
  ChatCompletion: chatAnswer,
  ChatCompletionChunk: chatChunk,
  CompletionRequest: completionBody,
  Completion: completionAnswer,
  CompletionChunk: completionChunk,
  ResponseRequest: responsesBody,
  Response: responseAnswer,
  ResponseChunk: responseEvent,
  DeletedResponse: deletedResponse,
  InputItems: inputItemsAnswer,
  MessageRequest: messagesBody,
  Message: messageAnswer,
  MessageChunk: messageEvent,
  CountTokensRequest: countTokensBody,
  CountTokensAnswer: countTokensAnswer,
  MessagesError: messagesError,
  EmbeddingsRequest: embeddingsBody,
  Embeddings: embeddingsAnswer,
  RerankRequest: rerankBody,
  Ranking: rerankAnswer,
  Model: modelAnswer,
  ModelList: modelsAnswer,
  TokenizeRequest: tokenizeBody,
  TokenizeAnswer: tokenizeAnswer,
  DetokenizeRequest: detokenizeBody,
  DetokenizeAnswer: detokenizeAnswer,
  Error: errorAnswer,
  Health: healthAnswer,
  Readiness: readyAnswer,
  Liveness: liveAnswer,
  Unavailable: unavailableAnswer,
  Version: versionAnswer,
} as const satisfies Readonly<Record<string, z.ZodType>>;

const OPERATOR_SCHEMAS = { LoadAdapterRequest: loadAdapterBody, UnloadAdapterRequest: unloadAdapterBody } as const;

const BATCH_SCHEMAS = {
  File: fileAnswer,
  FileList: filesAnswer,
  DeletedFile: deletedFile,
  BatchRequest: batchBody,
  Batch: batchAnswer,
  BatchList: batchesAnswer,
} as const;

type SchemaName = keyof typeof SCHEMAS | keyof typeof BATCH_SCHEMAS | keyof typeof OPERATOR_SCHEMAS;

/** Parts of the API that not every server has. */
interface DescribedParts {
  readonly hasOperators?: boolean;
  readonly hasBatches?: boolean;
}

/**
 * Describes every route of the API and of operations.
 *
 * @param options - `hasOperators`: whether operators may load experts; `hasBatches`: whether there are files and
 *   batches; both by default false
 */
export function openApiDocument({ hasOperators = false, hasBatches = false }: DescribedParts = {}): OpenApiDocument {
  const schemas = {
    ...SCHEMAS,
    ...(hasBatches ? BATCH_SCHEMAS : {}),
    ...(hasOperators ? OPERATOR_SCHEMAS : {}),
  };
  return {
    openapi: "3.1.0",
    info: { title: "readme-moe", version: "1" },
    paths: {
      "/v1/chat/completions": post("ChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk"),
      "/v1/completions": post("CompletionRequest", "Completion", "CompletionChunk"),
      "/v1/responses": post("ResponseRequest", "Response", "ResponseChunk"),
      "/v1/responses/{id}": { ...ID_PARAMETER, ...get("Response"), delete: { responses: answers("DeletedResponse") } },
      "/v1/responses/{id}/input_items": { ...ID_PARAMETER, ...get("InputItems") },
      "/v1/responses/{id}/cancel": { ...ID_PARAMETER, post: { responses: answers("Response") } },
      "/v1/messages": post("MessageRequest", "Message", "MessageChunk", "MessagesError"),
      "/v1/messages/count_tokens": post("CountTokensRequest", "CountTokensAnswer", undefined, "MessagesError"),
      "/v1/embeddings": post("EmbeddingsRequest", "Embeddings"),
      "/v1/rerank": post("RerankRequest", "Ranking"),
      "/v2/rerank": post("RerankRequest", "Ranking"),
      "/rerank": post("RerankRequest", "Ranking"),
      "/v1/models": get("ModelList"),
      "/v1/models/{id}": { ...ID_PARAMETER, ...get("Model") },
      "/tokenize": post("TokenizeRequest", "TokenizeAnswer"),
      "/detokenize": post("DetokenizeRequest", "DetokenizeAnswer"),
      ...(hasBatches ? BATCH_PATHS : {}),
      ...(hasOperators ? OPERATOR_PATHS : {}),
      // Routes of `readMe.operations`.
      "/health": probe("Health"),
      "/readyz": probe("Readiness"),
      "/livez": probe("Liveness"),
      "/version": { get: { responses: { "200": { description: "The answer", content: json("Version") } } } },
      "/metrics": {
        get: { responses: { "200": { description: "Metrics in the format of Prometheus", content: text } } },
      },
    },
    components: {
      schemas: Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, jsonSchema(schema)])),
    },
  };
}

function jsonSchema(schema: z.ZodType): object {
  // Custom schemas bring their JSON Schema as metadata.
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
  return rest;
}

const json = (name: SchemaName): object => ({
  "application/json": { schema: { $ref: `#/components/schemas/${name}` } },
});

const text: object = { "text/plain": { schema: { type: "string" } } };

const probe = (answer: SchemaName): object => ({
  get: {
    responses: {
      "200": { description: "Yes", content: json(answer) },
      "503": { description: "No", content: json("Unavailable") },
    },
  },
});

const ID_PARAMETER = { parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" } }] } as const;

const answers = (answer: SchemaName, chunk?: SchemaName, error: SchemaName = "Error"): object => ({
  "200": {
    description: chunk ? "The answer, or its chunks as server-sent events where `stream` is true" : "The answer",
    content: {
      ...json(answer),
      ...(chunk ? { "text/event-stream": { schema: { $ref: `#/components/schemas/${chunk}` } } } : {}),
    },
  },
  default: { description: "The error", content: json(error) },
});

const post = (body: SchemaName, answer: SchemaName, chunk?: SchemaName, error?: SchemaName): object => ({
  post: { requestBody: { required: true, content: json(body) }, responses: answers(answer, chunk, error) },
});

const get = (answer: SchemaName): object => ({ get: { responses: answers(answer) } });

const change = (body: SchemaName): object => ({
  post: {
    requestBody: { required: true, content: json(body) },
    responses: {
      "200": { description: "A text that begins with Success", content: text },
      default: { description: "The error", content: json("Error") },
    },
  },
});

const OPERATOR_PATHS: OpenApiDocument["paths"] = {
  "/v1/load_lora_adapter": change("LoadAdapterRequest"),
  "/v1/unload_lora_adapter": change("UnloadAdapterRequest"),
};

const UPLOAD = {
  type: "object",
  required: ["file", "purpose"],
  properties: { file: { type: "string", format: "binary" }, purpose: { const: "batch" } },
} as const;

const BATCH_PATHS: OpenApiDocument["paths"] = {
  "/v1/files": {
    ...get("FileList"),
    post: {
      requestBody: { required: true, content: { "multipart/form-data": { schema: UPLOAD } } },
      responses: answers("File"),
    },
  },
  "/v1/files/{id}": { ...ID_PARAMETER, ...get("File"), delete: { responses: answers("DeletedFile") } },
  "/v1/files/{id}/content": {
    ...ID_PARAMETER,
    get: {
      responses: {
        "200": { description: "The file", content: { "application/jsonl": { schema: { type: "string" } } } },
        default: { description: "The error", content: json("Error") },
      },
    },
  },
  "/v1/batches": { ...get("BatchList"), ...post("BatchRequest", "Batch") },
  "/v1/batches/{id}": { ...ID_PARAMETER, ...get("Batch") },
  "/v1/batches/{id}/cancel": { ...ID_PARAMETER, post: { responses: answers("Batch") } },
};
