// The routes, one entry for each. The server's table and the OpenAPI document follow from them.

import * as answers from "./api/answer-schemas.ts";
import { checkBody } from "./api/body.ts";
import { chatApi } from "./api/chat.ts";
import { completionApi } from "./api/completions.ts";
import * as others from "./api/other-routes.ts";
import {
  checkInputs,
  classify,
  rerank,
  scoreTexts,
  serveEmbeddings,
  teiEmbed,
  teiPredict,
  teiRerank,
} from "./api/pooling.ts";
import * as bodies from "./api/request-schemas.ts";
import type { EngineRouteFacts, RequestParts, RouteFacts, Serving } from "./api/request-scope.ts";
import { generating } from "./api/serve-generation.ts";
import * as batches from "./batches/routes.ts";
import * as batchSchemas from "./batches/schemas.ts";
import type { Batches } from "./batches/batches.ts";
import * as operations from "./edge/operations.ts";
import { fim, infill } from "./fill-in/routes.ts";
import { fimBody, infillAnswer, infillBody, infillChunk } from "./fill-in/schemas.ts";
import type { Handler } from "./http/request.ts";
import { type Media, type Named, type RouteDescription, schemaOf } from "./http/routes.ts";
import { countTokens, openMessage } from "./messages/endpoint.ts";
import { countTokensAnswer, countTokensBody, messageAnswer, messageEvent, messagesBody } from "./messages/schemas.ts";
import * as ollama from "./ollama/routes.ts";
import * as ollamaSchemas from "./ollama/schemas.ts";
import * as responses from "./responses/endpoint.ts";
import * as responseSchemas from "./responses/schemas.ts";
import type { ResponseStore } from "./responses/store.ts";

/** Routes that not every server has. */
export type RoutePart = "batches" | "ollama" | "operators";

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

export interface ApiRoute extends RouteDescription, RouteFacts {
  /** @default every server has it */
  readonly part?: RoutePart;
  readonly adapt?: (sent: unknown) => unknown;
  handle(parts: RouteParts, body: never): void | Promise<void>;
}

/** Makes a handler that checks the body before the route gets it. */
export function handlerOf(own: ApiRoute, services: RouteServices): Handler {
  const schema = schemaOf(own.body);
  const { adapt = (sent: unknown) => sent } = own;
  return (request, response) => {
    const body = schema && checkBody(schema, adapt(request.body));
    // The route's own schema has given the body.
    return own.handle({ ...services, request, response, route: own }, body as never);
  };
}

type Entry = Omit<ApiRoute, keyof Handling<never, never>>;

/** Makes the entry of a route whose answers an engine computes. `onRequest` sees its requests. */
function engineRoute<Body>(
  entry: Omit<Entry, "method" | "cost"> & Omit<EngineRouteFacts, "cost"> & Handling<RouteParts<EngineRouteFacts>, Body>,
): ApiRoute {
  return { method: "post", cost: "engine", ...entry };
}

function read(entry: Omit<Entry, "task" | "method" | "cost"> & Handling<RouteParts, undefined>): ApiRoute {
  return { method: "get", cost: "answer", ...entry };
}

function route<Body>(entry: Omit<Entry, "task"> & Handling<RouteParts, Body>): ApiRoute {
  return entry;
}

const inBatches =
  <Body>(handle: (asked: batches.BatchesRequest, body: Body) => Promise<void>) =>
  ({ batches: own, ...parts }: RouteParts, body: Body): Promise<void> => {
    if (!own) throw new TypeError("Expected the server to have a folder of batches");
    return handle({ ...parts, batches: own }, body);
  };

const CHANGED: Media = { type: "text/plain", description: "A text that begins with Success" };

const BATCHES: readonly ApiRoute[] = [
  read({ path: "/v1/files", answer: { FileList: batchSchemas.filesAnswer }, handle: inBatches(batches.listFiles) }),
  route({
    method: "post",
    path: "/v1/files",
    cost: "none",
    body: { type: "multipart/form-data", description: "`file`, and `purpose`, which is `batch`" },
    answer: { File: batchSchemas.fileAnswer },
    handle: inBatches(batches.uploadFile),
  }),
  read({ path: "/v1/files/:id", answer: { File: batchSchemas.fileAnswer }, handle: inBatches(batches.showFile) }),
  route({
    method: "delete",
    path: "/v1/files/:id",
    cost: "none",
    answer: { DeletedFile: batchSchemas.deletedFile },
    handle: inBatches(batches.deleteFile),
  }),
  read({
    path: "/v1/files/:id/content",
    answer: { type: "application/jsonl", description: "The file" },
    handle: inBatches(batches.sendFile),
  }),
  read({
    path: "/v1/batches",
    answer: { BatchList: batchSchemas.batchesAnswer },
    handle: inBatches(batches.listBatches),
  }),
  route({
    method: "post",
    path: "/v1/batches",
    cost: "none",
    body: { BatchRequest: batchSchemas.batchBody },
    answer: { Batch: batchSchemas.batchAnswer },
    handle: inBatches(batches.createBatch),
  }),
  read({ path: "/v1/batches/:id", answer: { Batch: batchSchemas.batchAnswer }, handle: inBatches(batches.showBatch) }),
  route({
    method: "post",
    path: "/v1/batches/:id/cancel",
    cost: "none",
    answer: { Batch: batchSchemas.batchAnswer },
    handle: inBatches(batches.cancelBatch),
  }),
];

const OLLAMA: readonly ApiRoute[] = [
  engineRoute({
    path: "/api/chat",
    task: "generate",
    body: { OllamaChatRequest: ollamaSchemas.ollamaChatBody },
    answer: { OllamaChat: ollamaSchemas.ollamaChatAnswer },
    chunk: { OllamaChat: ollamaSchemas.ollamaChatAnswer },
    handle: ollama.ollamaChat,
  }),
  engineRoute({
    path: "/api/generate",
    task: "generate",
    body: { OllamaGenerateRequest: ollamaSchemas.ollamaGenerateBody },
    answer: { OllamaGeneration: ollamaSchemas.ollamaGenerateAnswer },
    chunk: { OllamaGeneration: ollamaSchemas.ollamaGenerateAnswer },
    handle: ollama.ollamaGenerate,
  }),
  engineRoute({
    path: "/api/embed",
    task: "embed",
    body: { OllamaEmbedRequest: ollamaSchemas.ollamaEmbedBody },
    answer: { OllamaEmbeddings: ollamaSchemas.ollamaEmbedAnswer },
    handle: ollama.ollamaEmbed,
  }),
  engineRoute({
    path: "/api/embeddings",
    task: "embed",
    body: { OllamaEmbedOneRequest: ollamaSchemas.ollamaEmbedOneBody },
    answer: { OllamaEmbedding: ollamaSchemas.ollamaEmbedOneAnswer },
    handle: ollama.ollamaEmbedOne,
  }),
  route({
    method: "post",
    path: "/api/show",
    cost: "answer",
    body: { OllamaShowRequest: ollamaSchemas.ollamaShowBody },
    answer: { OllamaModel: ollamaSchemas.ollamaShowAnswer },
    handle: ollama.ollamaShow,
  }),
  read({
    path: "/api/tags",
    answer: { OllamaModelList: ollamaSchemas.ollamaModelsAnswer },
    handle: ollama.ollamaModels,
  }),
  read({
    path: "/api/ps",
    answer: { OllamaRunningList: ollamaSchemas.ollamaRunningAnswer },
    handle: ollama.ollamaRunning,
  }),
  read({
    path: "/api/version",
    answer: { OllamaVersion: ollamaSchemas.ollamaVersionAnswer },
    handle: ollama.ollamaVersion,
  }),
];

const OPERATORS: readonly ApiRoute[] = [
  route({
    method: "post",
    path: "/v1/load_lora_adapter",
    cost: "none",
    body: { LoadAdapterRequest: bodies.loadAdapterBody },
    answer: CHANGED,
    handle: others.loadAdapter,
  }),
  route({
    method: "post",
    path: "/v1/unload_lora_adapter",
    cost: "none",
    body: { UnloadAdapterRequest: bodies.unloadAdapterBody },
    answer: CHANGED,
    handle: others.unloadAdapter,
  }),
];

export const API_ROUTES: readonly ApiRoute[] = [
  engineRoute({
    path: "/v1/chat/completions",
    task: "generate",
    body: { ChatCompletionRequest: bodies.chatBody },
    answer: { ChatCompletion: answers.chatAnswer },
    chunk: { ChatCompletionChunk: answers.chatChunk },
    handle: generating((body: bodies.ChatBody) => ({ ...chatApi, body })),
  }),
  engineRoute({
    path: "/v1/completions",
    task: "generate",
    body: { CompletionRequest: bodies.completionBody },
    answer: { Completion: answers.completionAnswer },
    chunk: { CompletionChunk: answers.completionChunk },
    handle: generating((body: bodies.CompletionBody) => ({ ...completionApi, body })),
  }),
  engineRoute({
    path: "/v1/fim/completions",
    task: "generate",
    body: { FimRequest: fimBody },
    answer: { ChatCompletion: answers.chatAnswer },
    chunk: { ChatCompletionChunk: answers.chatChunk },
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
    adapt: responseSchemas.withItemTypes,
    body: { ResponseRequest: responseSchemas.responsesBody },
    answer: { Response: responseSchemas.responseAnswer },
    chunk: { ResponseChunk: responseSchemas.responseEvent },
    handle: generating(responses.openResponse),
  }),
  read({
    path: "/v1/responses/:id",
    answer: { Response: responseSchemas.responseAnswer },
    handle: responses.showResponse,
  }),
  route({
    method: "delete",
    path: "/v1/responses/:id",
    cost: "none",
    answer: { DeletedResponse: responseSchemas.deletedResponse },
    handle: responses.deleteResponse,
  }),
  read({
    path: "/v1/responses/:id/input_items",
    answer: { InputItems: responseSchemas.inputItemsAnswer },
    handle: responses.listInputItems,
  }),
  route({
    method: "post",
    path: "/v1/responses/:id/cancel",
    cost: "none",
    answer: { Response: responseSchemas.responseAnswer },
    handle: responses.cancelResponse,
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
    adapt: checkInputs("input"),
    body: { EmbeddingsRequest: bodies.embeddingsBody },
    answer: { Embeddings: answers.embeddingsAnswer },
    handle: (parts, body) => serveEmbeddings(parts, body),
  }),
  engineRoute({
    path: "/v1/rerank",
    // Cohere's second API has the path of its version, and vLLM and Text Embeddings Inference answer without one.
    aliases: ["/v2/rerank", "/rerank"],
    task: "rerank",
    body: { RerankRequest: bodies.rankingBody },
    answer: { Ranking: answers.rankingAnswer },
    handle: (parts, body) => ("texts" in body ? teiRerank(parts, body) : rerank(parts, body)),
  }),
  engineRoute({
    path: "/v1/score",
    aliases: ["/score"],
    task: "rerank",
    body: { ScoreRequest: bodies.scoreBody },
    answer: { Scores: answers.scoreAnswer },
    handle: scoreTexts,
  }),
  engineRoute({
    path: "/embed",
    task: "embed",
    adapt: checkInputs("inputs"),
    body: { TeiEmbedRequest: bodies.teiEmbedBody },
    answer: { TeiEmbeddings: answers.teiEmbedAnswer },
    handle: teiEmbed,
  }),
  engineRoute({
    path: "/classify",
    task: "classify",
    adapt: checkInputs("input"),
    body: { ClassifyRequest: bodies.classifyBody },
    answer: { Labels: answers.classifyAnswer },
    handle: (parts, body) => classify(parts, body),
  }),
  engineRoute({
    path: "/predict",
    task: "classify",
    adapt: checkInputs("inputs"),
    body: { TeiPredictRequest: bodies.teiPredictBody },
    answer: { TeiLabels: answers.teiPredictAnswer },
    handle: teiPredict,
  }),
  read({ path: "/v1/models", answer: { ModelList: answers.modelsAnswer }, handle: others.listModels }),
  read({ path: "/v1/models/*id", answer: { Model: answers.modelAnswer }, handle: others.showModel }),
  route({
    method: "post",
    path: "/tokenize",
    cost: "texts",
    body: { TokenizeRequest: bodies.tokenizeBody },
    answer: { TokenizeAnswer: answers.tokenizeAnswer },
    handle: others.tokenize,
  }),
  route({
    method: "post",
    path: "/detokenize",
    cost: "texts",
    body: { DetokenizeRequest: bodies.detokenizeBody },
    answer: { DetokenizeAnswer: answers.detokenizeAnswer },
    handle: others.detokenize,
  }),
  read({
    path: "/openapi.json",
    answer: { type: "application/json", description: "This document" },
    handle: ({ document, ...parts }) => others.sendRead(parts, () => document),
  }),
  ...BATCHES.map((one) => ({ ...one, part: "batches" as const })),
  ...OLLAMA.map((one) => ({ ...one, part: "ollama" as const, api: "ollama" as const })),
  ...OPERATORS.map((one) => ({ ...one, part: "operators" as const })),
];

/** A route of health and metrics. */
interface OperationsRoute extends RouteDescription, RouteFacts {
  readonly handler: keyof operations.Operations;
}

const probe = { method: "get", cost: "none", unavailable: { Unavailable: operations.unavailableAnswer } } as const;

export const OPERATIONS_ROUTES: readonly OperationsRoute[] = [
  { ...probe, path: "/health", answer: { Health: operations.healthAnswer }, handler: "health" },
  { ...probe, path: "/readyz", answer: { Readiness: operations.readyAnswer }, handler: "ready" },
  { ...probe, path: "/livez", answer: { Liveness: operations.liveAnswer }, handler: "live" },
  { method: "get", cost: "none", path: "/version", answer: { Version: operations.versionAnswer }, handler: "version" },
  {
    method: "get",
    cost: "answer",
    path: "/metrics",
    answer: { type: "text/plain", description: "Metrics in the format of Prometheus" },
    handler: "metrics",
  },
];
