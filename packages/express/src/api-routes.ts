// The routes of the API.

import type { Serving } from "./api/request-scope.ts";
import { loadAdapter, OPERATOR_BODY_BYTES, unloadAdapter } from "./api/experts.ts";
import { detokenize, listModels, sendRead, showModel, tokenize } from "./api/other-routes.ts";
import { createEmbeddings, rerank } from "./api/pooling.ts";
import {
  cancelBatch,
  createBatch,
  deleteFile,
  listBatches,
  listFiles,
  sendFile,
  showBatch,
  showFile,
  uploadFile,
  type BatchesRequest,
} from "./batches/routes.ts";
import { BATCH_ENDPOINTS } from "./batches/schemas.ts";
import type { LineHandlers } from "./batches/run-line.ts";
import type { Batches } from "./batches/service.ts";
import { readJson, refuseEarly, refuseLong } from "./api/read-body.ts";
import { openChat, openCompletion, serveGeneration, type OpenGeneration } from "./api/serve-generation.ts";
import type { ChatBody, CompletionBody } from "./api/request-schemas.ts";
import type { Handler, Step } from "./http/types.ts";
import { asStep, type Route, type RouteTable } from "./http/routes.ts";
import { checkVersion, countTokens, openMessage } from "./messages/endpoint.ts";
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
import { cancelResponse, deleteResponse, listInputItems, openResponse, showResponse } from "./responses/endpoint.ts";
import type { ResponseStore } from "./responses/store.ts";

/** Steps in front of routes. */
interface Fronts {
  /** Permissions of web pages; comes before keys, which preflight requests do not have. */
  readonly cors: readonly Step[];
  /** Keys, request ids, rate limits. */
  readonly clients: readonly Step[];
  /** Steps of operators' routes; `undefined` where these do not exist. */
  readonly operators: readonly Step[] | undefined;
}

/** Parts of the API. */
export interface ApiParts {
  readonly serving: Serving;
  readonly store: ResponseStore;
  /** Files and batches, where there is a folder for them. */
  readonly batches?: Batches | undefined;
  /** The OpenAPI document. */
  readonly document: object;
  readonly fronts: Fronts;
}

/** Handlers of a path by method. */
type Methods = Readonly<Partial<Record<"get" | "post" | "delete", Handler>>>;

/** Makes the table of all routes of the API. */
export function apiRoutes({ serving, store, batches, document, fronts }: ApiParts): RouteTable {
  const { clients, operators, cors } = fronts;
  const front: readonly Step[] = [...cors, ...clients, checkVersion];
  const readBody = [refuseEarly(serving), readJson(serving)];
  const on = (path: string, { get, post, delete: remove }: Methods): Route => ({
    path,
    front,
    methods: {
      ...(get && { get: [asStep(get)] }),
      ...(post && { post: [...readBody, asStep(post)] }),
      ...(remove && { delete: [asStep(remove)] }),
    },
  });
  const description = Buffer.from(JSON.stringify(document));
  const handlers = batchHandlers(serving, store);
  return {
    routes: [
      ...BATCH_ENDPOINTS.map((path) => on(path, { post: handlers[path] })),
      on("/v1/responses/:id", {
        get: (request, response) => showResponse({ serving, store, request, response }),
        delete: (request, response) => deleteResponse({ serving, store, request, response }),
      }),
      on("/v1/responses/:id/input_items", {
        get: (request, response) => listInputItems({ serving, store, request, response }),
      }),
      {
        path: "/v1/responses/:id/cancel",
        front,
        // Its body is empty, and is not read.
        methods: { post: [asStep((request, response) => cancelResponse({ serving, store, request, response }))] },
      },
      on("/v1/messages", { post: generating(serving, openMessage) }),
      on("/v1/messages/count_tokens", { post: (request, response) => countTokens(serving, request, response) }),
      // Cohere's second API has the path of its version, and vLLM answers without one.
      ...["/v1/rerank", "/v2/rerank", "/rerank"].map((path) =>
        on(path, { post: (request, response) => rerank({ serving, request, response }) }),
      ),
      on("/v1/models", { get: (request, response) => listModels({ serving, request, response }) }),
      on("/v1/models/*id", { get: (request, response) => showModel({ serving, request, response }) }),
      ...(batches ? batchRoutes({ batches, serving }, { on, front }) : []),
      ...(serving.ollama ? ollamaRoutes(serving, on) : []),
      on("/tokenize", { post: (request, response) => tokenize(serving, request, response) }),
      on("/detokenize", { post: (request, response) => detokenize(serving, request, response) }),
      on("/openapi.json", { get: (request, response) => sendRead({ serving, request, response }, () => description) }),
      ...(operators ? operatorRoutes(serving, operators) : []),
    ],
    rest: { prefix: "/v1", front },
  };
}

/** Makes the handlers of the endpoints that batches can have, too. */
export function batchHandlers(serving: Serving, store: ResponseStore): LineHandlers {
  return {
    "/v1/chat/completions": generating(serving, openChat),
    "/v1/completions": generating(serving, openCompletion),
    "/v1/responses": generating(serving, openResponse(store)),
    "/v1/embeddings": (request, response) => createEmbeddings({ serving, request, response }),
  };
}

function generating<Body extends ChatBody | CompletionBody, Choice extends object>(
  serving: Serving,
  open: OpenGeneration<Body, Choice>,
): Handler {
  return (request, response) => serveGeneration(open, { serving, request, response });
}

/** Makes the routes of files and batches. */
function batchRoutes(
  parts: Pick<BatchesRequest, "batches" | "serving">,
  { on, front }: { readonly on: (path: string, methods: Methods) => Route; readonly front: readonly Step[] },
): readonly Route[] {
  const to =
    (handle: (asked: BatchesRequest) => Promise<void>): Handler =>
    (request, response) =>
      handle({ ...parts, request, response });
  return [
    // Its body is no JSON, and goes to the disk.
    { path: "/v1/files", front, methods: { get: [asStep(to(listFiles))], post: [asStep(to(uploadFile))] } },
    on("/v1/files/:id", { get: to(showFile), delete: to(deleteFile) }),
    on("/v1/files/:id/content", { get: to(sendFile) }),
    on("/v1/batches", { get: to(listBatches), post: to(createBatch) }),
    on("/v1/batches/:id", { get: to(showBatch) }),
    { path: "/v1/batches/:id/cancel", front, methods: { post: [asStep(to(cancelBatch))] } },
  ];
}

/** Makes the routes of Ollama's API. */
function ollamaRoutes(serving: Serving, on: (path: string, methods: Methods) => Route): readonly Route[] {
  return [
    on("/api/chat", { post: (request, response) => ollamaChat({ serving, request, response }) }),
    on("/api/generate", { post: (request, response) => ollamaGenerate({ serving, request, response }) }),
    on("/api/embed", { post: (request, response) => ollamaEmbed({ serving, request, response }) }),
    on("/api/embeddings", { post: (request, response) => ollamaEmbedOne({ serving, request, response }) }),
    on("/api/show", { post: (request, response) => ollamaShow({ serving, request, response }) }),
    on("/api/tags", { get: (request, response) => ollamaModels({ serving, request, response }) }),
    on("/api/ps", { get: (request, response) => ollamaRunning({ serving, request, response }) }),
    on("/api/version", { get: (request, response) => ollamaVersion({ serving, request, response }) }),
  ];
}

/** Makes the routes that load and unload experts, where there is a folder to load them from. */
function operatorRoutes(serving: Serving, operators: readonly Step[]): readonly Route[] {
  const { models } = serving;
  const { folder } = serving.experts.operators ?? {};
  if (!folder) return [];
  // Without admission, since a full server has to obey its operator, too.
  const read = [refuseLong(OPERATOR_BODY_BYTES), readJson({ ...serving, maxBodyBytes: OPERATOR_BODY_BYTES })];
  const operate = (path: string, handler: Handler): Route => ({
    path,
    front: operators,
    methods: { post: [...read, asStep(handler)] },
  });
  return [
    operate("/v1/load_lora_adapter", (request, response) => loadAdapter({ models, folder }, request, response)),
    operate("/v1/unload_lora_adapter", (request, response) => unloadAdapter(models, request, response)),
  ];
}
