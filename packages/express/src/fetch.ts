// Entry for hosts other than Express. Nothing that it imports loads Express.

export { fetchHandler, type FetchHandler, type FetchInfo, type FetchOptions } from "./fetch-handler.ts";
export { ApiError, type ApiErrorDetails } from "./http/errors.ts";
export { LIMITS, type Limit } from "./limits.ts";
export { openApiDocument } from "./openapi-document.ts";
export type { ApiOptions, CacheSharing, OnRequest, RequestBody, RequestContext } from "./api/options.ts";
export type { ChatBody, CompletionBody, EmbeddingsBody, RerankBody } from "./api/request-schemas.ts";
export { Admission } from "./edge/admission.ts";
export type {
  AdmissionOptions,
  AdmissionPolicy,
  AdmissionStats,
  Entrant,
  PolicyDecision,
  RoutedRequest,
  Ticket,
} from "./edge/admission/limits.ts";
export type { CorsOptions } from "./edge/guard.ts";
export type { Authorize } from "./edge/guard.ts";
export type { ExpertsOptions, ExpertUse, MayName } from "./edge/experts.ts";
export type {
  AcquireOptions,
  Asking,
  DrainOptions,
  EnginesByName,
  ListedModel,
  ModelOpening,
  ModelSource,
  OnDemandModel,
  RestartOptions,
  ServedExpert,
  ServedModel,
  ServedModelsOptions,
  ShareTraffic,
  SwapOptions,
} from "./edge/models/options.ts";
export type { Lease, ModelCondition, ModelState } from "./edge/models/model-entry.ts";
export { ServedModels } from "./edge/served-models.ts";
export type { BatchesOptions, BatchQueue } from "./batches/options.ts";
export type { ResponsesOptions } from "./responses/store.ts";
export type { ReadMeApiOptions, ReadMeOperationsOptions, ReadMeOptions, ServingOptions } from "./services.ts";
