// The routes, one entry for each. The server's table and the OpenAPI document follow from them.

import {
  chatAnswer,
  chatChunk,
  completionAnswer,
  completionChunk,
  detokenizeAnswer,
  embeddingsAnswer,
  modelAnswer,
  modelsAnswer,
  rerankAnswer,
  tokenizeAnswer,
} from "./api/answer-schemas.ts";
import { loadAdapter, unloadAdapter } from "./api/experts.ts";
import { detokenize, listModels, sendRead, showModel, tokenize } from "./api/other-routes.ts";
import { checkInputs, rerank, serveEmbeddings } from "./api/pooling.ts";
import {
  chatBody,
  completionBody,
  detokenizeBody,
  embeddingsBody,
  loadAdapterBody,
  rerankBody,
  tokenizeBody,
  unloadAdapterBody,
} from "./api/request-schemas.ts";
import type { EngineRouteFacts, RequestParts, RouteFacts, Serving } from "./api/request-scope.ts";
import { generating, openChat, openCompletion } from "./api/serve-generation.ts";
import {
  type BatchesRequest,
  cancelBatch,
  createBatch,
  deleteFile,
  listBatches,
  listFiles,
  sendFile,
  showBatch,
  showFile,
  uploadFile,
} from "./batches/routes.ts";
import { batchAnswer, batchBody, batchesAnswer, deletedFile, fileAnswer, filesAnswer } from "./batches/schemas.ts";
import type { Batches } from "./batches/batches.ts";
import {
  healthAnswer,
  liveAnswer,
  type Operations,
  readyAnswer,
  unavailableAnswer,
  versionAnswer,
} from "./edge/operations.ts";
import { fim, infill } from "./fill-in/routes.ts";
import { fimBody, infillAnswer, infillBody, infillChunk } from "./fill-in/schemas.ts";
import type { Media, Named, RouteDescription } from "./http/routes.ts";
import { countTokens, openMessage } from "./messages/endpoint.ts";
import { countTokensAnswer, countTokensBody, messageAnswer, messageEvent, messagesBody } from "./messages/schemas.ts";
import {
  ollamaChat,
  ollamaEmbed,
  ollamaEmbedOne,
  ollamaGenerate,
  ollamaModels,
  ollamaRunning,
  ollamaShow,
  ollamaVersion,
} from "./ollama/routes.ts";
import {
  ollamaChatAnswer,
  ollamaChatBody,
  ollamaEmbedAnswer,
  ollamaEmbedBody,
  ollamaEmbedOneAnswer,
  ollamaEmbedOneBody,
  ollamaGenerateAnswer,
  ollamaGenerateBody,
  ollamaModelsAnswer,
  ollamaRunningAnswer,
  ollamaShowAnswer,
  ollamaShowBody,
  ollamaVersionAnswer,
} from "./ollama/schemas.ts";
import { cancelResponse, deleteResponse, listInputItems, openResponse, showResponse } from "./responses/endpoint.ts";
import {
  deletedResponse,
  inputItemsAnswer,
  responseAnswer,
  responseEvent,
  responsesBody,
  withItemTypes,
} from "./responses/schemas.ts";
import type { ResponseStore } from "./responses/store.ts";

/** Routes that not every server has. */
export type RoutePart = "batches" | "ollama" | "operators";

/** Services that routes share. */
export interface RouteServices {
  readonly serving: Serving;
  readonly store: ResponseStore;
  /** Files and batches, where there is a folder for them. */
  readonly batches?: Batches | undefined;
  /** The OpenAPI document as JSON. */
  readonly document: Buffer;
}

type RouteParts<Facts extends RouteFacts = RouteFacts> = RouteServices & RequestParts<Facts>;

interface Handling<Parts, Body> {
  /** JSON that is checked before the handler, or a body that the handler reads. @default none is read */
  readonly body?: Named<Body> | Media;
  /** Changes JSON before it is checked. */
  readonly adapt?: (sent: unknown) => unknown;
  readonly handle: (parts: Parts, body: Body) => void | Promise<void>;
}

/** A route of the API. */
export interface ApiRoute extends RouteDescription, RouteFacts {
  /** @default every server has it */
  readonly part?: RoutePart;
  readonly adapt?: (sent: unknown) => unknown;
  handle(parts: RouteParts, body: never): void | Promise<void>;
}

type Entry = Omit<ApiRoute, keyof Handling<never, never>>;

/** Makes the entry of a route whose answers an engine computes. `onRequest` sees its requests. */
function engineRoute<Body>(
  entry: Omit<Entry, "method" | "cost"> & Omit<EngineRouteFacts, "cost"> & Handling<RouteParts<EngineRouteFacts>, Body>,
): ApiRoute {
  return { method: "post", cost: "engine", ...entry };
}

/** Makes the entry of a route that is read. */
function read(entry: Omit<Entry, "task" | "method" | "cost"> & Handling<RouteParts, undefined>): ApiRoute {
  return { method: "get", cost: "answer", ...entry };
}

function route<Body>(entry: Omit<Entry, "task"> & Handling<RouteParts, Body>): ApiRoute {
  return entry;
}

const inBatches =
  (handle: (asked: BatchesRequest) => Promise<void>) =>
  ({ batches, ...parts }: RouteParts): Promise<void> => {
    if (!batches) throw new TypeError("Expected the server to have a folder of batches");
    return handle({ ...parts, batches });
  };

const CHANGED: Media = { type: "text/plain", description: "A text that begins with Success" };

const BATCHES: readonly ApiRoute[] = [
  read({ path: "/v1/files", answer: { FileList: filesAnswer }, handle: inBatches(listFiles) }),
  route({
    method: "post",
    path: "/v1/files",
    cost: "none",
    body: { type: "multipart/form-data", description: "`file`, and `purpose`, which is `batch`" },
    answer: { File: fileAnswer },
    handle: inBatches(uploadFile),
  }),
  read({ path: "/v1/files/:id", answer: { File: fileAnswer }, handle: inBatches(showFile) }),
  route({
    method: "delete",
    path: "/v1/files/:id",
    cost: "none",
    answer: { DeletedFile: deletedFile },
    handle: inBatches(deleteFile),
  }),
  read({
    path: "/v1/files/:id/content",
    answer: { type: "application/jsonl", description: "The file" },
    handle: inBatches(sendFile),
  }),
  read({ path: "/v1/batches", answer: { BatchList: batchesAnswer }, handle: inBatches(listBatches) }),
  route({
    method: "post",
    path: "/v1/batches",
    cost: "none",
    body: { BatchRequest: batchBody },
    answer: { Batch: batchAnswer },
    handle: inBatches(createBatch),
  }),
  read({ path: "/v1/batches/:id", answer: { Batch: batchAnswer }, handle: inBatches(showBatch) }),
  route({
    method: "post",
    path: "/v1/batches/:id/cancel",
    cost: "none",
    answer: { Batch: batchAnswer },
    handle: inBatches(cancelBatch),
  }),
];

const OLLAMA: readonly ApiRoute[] = [
  engineRoute({
    path: "/api/chat",
    task: "generate",
    body: { OllamaChatRequest: ollamaChatBody },
    answer: { OllamaChat: ollamaChatAnswer },
    chunk: { OllamaChat: ollamaChatAnswer },
    handle: ollamaChat,
  }),
  engineRoute({
    path: "/api/generate",
    task: "generate",
    body: { OllamaGenerateRequest: ollamaGenerateBody },
    answer: { OllamaGeneration: ollamaGenerateAnswer },
    chunk: { OllamaGeneration: ollamaGenerateAnswer },
    handle: ollamaGenerate,
  }),
  engineRoute({
    path: "/api/embed",
    task: "embed",
    body: { OllamaEmbedRequest: ollamaEmbedBody },
    answer: { OllamaEmbeddings: ollamaEmbedAnswer },
    handle: ollamaEmbed,
  }),
  engineRoute({
    path: "/api/embeddings",
    task: "embed",
    body: { OllamaEmbedOneRequest: ollamaEmbedOneBody },
    answer: { OllamaEmbedding: ollamaEmbedOneAnswer },
    handle: ollamaEmbedOne,
  }),
  route({
    method: "post",
    path: "/api/show",
    cost: "answer",
    body: { OllamaShowRequest: ollamaShowBody },
    answer: { OllamaModel: ollamaShowAnswer },
    handle: ollamaShow,
  }),
  read({ path: "/api/tags", answer: { OllamaModelList: ollamaModelsAnswer }, handle: ollamaModels }),
  read({ path: "/api/ps", answer: { OllamaRunningList: ollamaRunningAnswer }, handle: ollamaRunning }),
  read({ path: "/api/version", answer: { OllamaVersion: ollamaVersionAnswer }, handle: ollamaVersion }),
];

const OPERATORS: readonly ApiRoute[] = [
  route({
    method: "post",
    path: "/v1/load_lora_adapter",
    cost: "none",
    body: { LoadAdapterRequest: loadAdapterBody },
    answer: CHANGED,
    handle: loadAdapter,
  }),
  route({
    method: "post",
    path: "/v1/unload_lora_adapter",
    cost: "none",
    body: { UnloadAdapterRequest: unloadAdapterBody },
    answer: CHANGED,
    handle: unloadAdapter,
  }),
];

/** Routes of the API. */
export const API_ROUTES: readonly ApiRoute[] = [
  engineRoute({
    path: "/v1/chat/completions",
    task: "generate",
    body: { ChatCompletionRequest: chatBody },
    answer: { ChatCompletion: chatAnswer },
    chunk: { ChatCompletionChunk: chatChunk },
    handle: generating(openChat),
  }),
  engineRoute({
    path: "/v1/completions",
    task: "generate",
    body: { CompletionRequest: completionBody },
    answer: { Completion: completionAnswer },
    chunk: { CompletionChunk: completionChunk },
    handle: generating(openCompletion),
  }),
  engineRoute({
    path: "/v1/fim/completions",
    task: "generate",
    body: { FimRequest: fimBody },
    answer: { ChatCompletion: chatAnswer },
    chunk: { ChatCompletionChunk: chatChunk },
    handle: fim,
  }),
  engineRoute({
    path: "/infill",
    task: "generate",
    body: { InfillRequest: infillBody },
    answer: { Infill: infillAnswer },
    chunk: { InfillChunk: infillChunk },
    handle: infill,
  }),
  engineRoute({
    path: "/v1/responses",
    task: "generate",
    adapt: withItemTypes,
    body: { ResponseRequest: responsesBody },
    answer: { Response: responseAnswer },
    chunk: { ResponseChunk: responseEvent },
    handle: generating(openResponse),
  }),
  read({ path: "/v1/responses/:id", answer: { Response: responseAnswer }, handle: showResponse }),
  route({
    method: "delete",
    path: "/v1/responses/:id",
    cost: "none",
    answer: { DeletedResponse: deletedResponse },
    handle: deleteResponse,
  }),
  read({ path: "/v1/responses/:id/input_items", answer: { InputItems: inputItemsAnswer }, handle: listInputItems }),
  route({
    method: "post",
    path: "/v1/responses/:id/cancel",
    cost: "none",
    answer: { Response: responseAnswer },
    handle: cancelResponse,
  }),
  engineRoute({
    path: "/v1/messages",
    api: "messages",
    task: "generate",
    body: { MessageRequest: messagesBody },
    answer: { Message: messageAnswer },
    chunk: { MessageChunk: messageEvent },
    handle: generating(openMessage),
  }),
  route({
    method: "post",
    path: "/v1/messages/count_tokens",
    api: "messages",
    cost: "texts",
    body: { CountTokensRequest: countTokensBody },
    answer: { CountTokensAnswer: countTokensAnswer },
    handle: countTokens,
  }),
  engineRoute({
    path: "/v1/embeddings",
    task: "embed",
    adapt: checkInputs,
    body: { EmbeddingsRequest: embeddingsBody },
    answer: { Embeddings: embeddingsAnswer },
    handle: (parts, body) => serveEmbeddings(parts, body),
  }),
  engineRoute({
    path: "/v1/rerank",
    // Cohere's second API has the path of its version, and vLLM answers without one.
    aliases: ["/v2/rerank", "/rerank"],
    task: "rerank",
    body: { RerankRequest: rerankBody },
    answer: { Ranking: rerankAnswer },
    handle: rerank,
  }),
  read({ path: "/v1/models", answer: { ModelList: modelsAnswer }, handle: listModels }),
  read({ path: "/v1/models/*id", answer: { Model: modelAnswer }, handle: showModel }),
  route({
    method: "post",
    path: "/tokenize",
    cost: "texts",
    body: { TokenizeRequest: tokenizeBody },
    answer: { TokenizeAnswer: tokenizeAnswer },
    handle: tokenize,
  }),
  route({
    method: "post",
    path: "/detokenize",
    cost: "texts",
    body: { DetokenizeRequest: detokenizeBody },
    answer: { DetokenizeAnswer: detokenizeAnswer },
    handle: detokenize,
  }),
  read({
    path: "/openapi.json",
    answer: { type: "application/json", description: "This document" },
    handle: ({ document, ...parts }) => sendRead(parts, () => document),
  }),
  ...BATCHES.map((one) => ({ ...one, part: "batches" as const })),
  ...OLLAMA.map((one) => ({ ...one, part: "ollama" as const, api: "ollama" as const })),
  ...OPERATORS.map((one) => ({ ...one, part: "operators" as const })),
];

/** A route of health and metrics. */
interface OperationsRoute extends RouteDescription, RouteFacts {
  readonly handler: keyof Operations;
}

const probe = { method: "get", cost: "none", unavailable: { Unavailable: unavailableAnswer } } as const;

export const OPERATIONS_ROUTES: readonly OperationsRoute[] = [
  { ...probe, path: "/health", answer: { Health: healthAnswer }, handler: "health" },
  { ...probe, path: "/readyz", answer: { Readiness: readyAnswer }, handler: "ready" },
  { ...probe, path: "/livez", answer: { Liveness: liveAnswer }, handler: "live" },
  { method: "get", cost: "none", path: "/version", answer: { Version: versionAnswer }, handler: "version" },
  {
    method: "get",
    cost: "answer",
    path: "/metrics",
    answer: { type: "text/plain", description: "Metrics in the format of Prometheus" },
    handler: "metrics",
  },
];
