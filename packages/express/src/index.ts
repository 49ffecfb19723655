export { ApiError, type ApiErrorDetails } from "./http/api-error.ts";
export { answerErrors, answerNotFound } from "./http/errors.ts";
export { boundConnections } from "./http/bound-connections.ts";
export { isLoopback, localHostsOnly } from "./http/local-hosts.ts";
export { LIMITS, type Limit } from "./limits.ts";
export { oneAtATime } from "./http/one-at-a-time.ts";
export type { ApiOptions, OnRequest, RequestContext } from "./api/options.ts";
export type { ChatBody } from "./api/schemas/chat-body.ts";
export type { CompletionBody } from "./api/schemas/completion-body.ts";
export { Admission } from "./edge/admission.ts";
export type {
  AdmissionOptions,
  AdmissionPolicy,
  AdmissionStats,
  Entrant,
  PolicyDecision,
  RoutedRequest,
  Ticket,
} from "./edge/admission/options.ts";
export type { Authorize } from "./edge/guard.ts";
export type { Asking, ServedModelsOptions, ShareTraffic } from "./edge/models/options.ts";
export type { ModelState } from "./edge/models/model-entry.ts";
export type { RestartOptions } from "./edge/models/options.ts";
export {
  ServedModels,
  type DrainOptions,
  type Lease,
  type ModelCondition,
  type ServedModel,
  type SwapOptions,
} from "./edge/served-models.ts";
export { openApiDocument } from "./openapi/document.ts";
export {
  readMe,
  type ReadMeApiOptions,
  type ReadMeOperationsOptions,
  type ReadMeOptions,
  type ServingOptions,
} from "./read-me.ts";
