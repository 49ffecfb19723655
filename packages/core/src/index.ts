export {
  parsePattern,
  PatternError,
  type PatternLook,
  type PatternNode,
  type PatternPlace,
  type PatternRepeat,
} from "./pattern-syntax.ts";
export {
  type AcceptedPrompt,
  type ChatContentPart,
  type ChatMessage,
  checkTemplateValues,
  expertIndex,
  type FinishReason,
  type FollowRequest,
  type GenerateChunk,
  type GeneratedToken,
  type Generation,
  GenerationStream,
  isTraceparent,
  onceAborted,
  type PromptProgress,
  type RoutedPrompt,
  type TokenizeOptions,
  type TokenLogprob,
  type Usage,
} from "./generation.ts";
export {
  type ChatPrompt,
  type DraftCounts,
  type DraftsBySource,
  type Engine,
  type EngineInfo,
  type EngineMemory,
  type EngineStats,
  type EngineVocabulary,
  everythingResident,
  type ExpertCacheStats,
  type FillInInfo,
  type FillInPrompt,
  type GenerateRequest,
  isFillIn,
  type Prompt,
  type PromptInfo,
  type PromptReader,
  type Residency,
  type ResumedGeneration,
  type StreamedResidency,
} from "./engine.ts";
export { type ExpertRun, type KernelInfo, ReadMeEmitter, type ReadMeEvents } from "./events.ts";
export {
  LOAD_STAGES,
  LoadMeter,
  type LoadProgress,
  type LoadStage,
  loadText,
  type MeteredProgress,
  type Rate,
  RateMeter,
} from "./loading.ts";
export type { ArtefactStore, TaskFlow } from "./task-flow.ts";
export { errorChain, type ErrorLink, ReadMeError, type ReadMeErrorCode, type ReadMeErrorOptions } from "./errors.ts";
export {
  checkClient,
  checkExpert,
  checkFillIn,
  checkRequestShape,
  checkTraceparent,
  withFillInEnds,
} from "./check-request.ts";
export {
  expertBytes,
  inEveryLayer,
  unitBytes,
  unitIndex,
  usedBytes,
  type CachedUnit,
  type ExpertCacheState,
  type ExpertLayout,
  type ExpertUnit,
} from "./expert-cache/cached-units.ts";
export {
  chooseVictims,
  EVICTION_POLICIES,
  evictionCandidates,
  resolveEvictionPolicy,
  type EvictionCandidate,
  type EvictionContext,
  type EvictionPolicy,
  type EvictionPolicyName,
} from "./expert-cache/eviction-policy.ts";
export {
  ExpertCache,
  type ExpertCacheCounters,
  type ExpertCacheOptions,
  type ForecastCounters,
} from "./expert-cache/expert-cache.ts";
export {
  forecastNextStep,
  includePrefetched,
  type ForecastInput,
  type NextStep,
  type PrefetchedReads,
  type UpcomingUses,
} from "./expert-cache/next-step.ts";
export {
  DEFAULT_READ_AHEAD,
  type EvictedUnit,
  planBudget,
  type PlannedRead,
  type PlanOptions,
  planReads,
  type ReadAheadOptions,
  type ReadPlan,
  type StepUses,
  type UseEstimates,
  type UseForecast,
} from "./expert-cache/plan-reads.ts";
export {
  newReadAheadTrial,
  observeTrialStep,
  type ReadAheadTrial,
  type TrialStep,
} from "./expert-cache/read-ahead-trial.ts";
export { RouteForecast, type RouteForecastOptions, type RouteShape } from "./expert-cache/route-forecast.ts";
export {
  choiceOption,
  type CheckedOptions,
  checkedOptions,
  describeValue,
  functionOption,
  isRecord,
  megabytes,
  integerCheck,
  integerOption,
  MAX_TIMER_MS,
  nearestName,
  numberOption,
  type OptionChecks,
  parseDurationMs,
  rejectUnknownKeys,
} from "./options.ts";
export {
  embeddingOf,
  embeddingPrefix,
  rankedDocuments,
  relevanceOf,
  rerankPrompt,
  type EmbeddingInfo,
  type Embeddings,
  type EmbedRequest,
  type ModelTask,
  type PoolingOptions,
  type PoolingProgress,
  type PoolingUsage,
  type Ranking,
  type RerankRequest,
} from "./pooling.ts";
export { seededRandom, uniformAt } from "./random.ts";
export type {
  AllowContext,
  AllowedTokens,
  AllowTokens,
  ConstraintSource,
  LogitsContext,
  ProcessLogits,
} from "./process-logits.ts";
export {
  expertKey,
  expertOfKey,
  NO_AFFINITY,
  NO_HOMES,
  prefixKey,
  type AffinityKey,
  type FleetState,
  type Home,
  type Homes,
  type PullDecision,
  type PullReason,
  type QueueHead,
  type QueueState,
  type WorkerState,
} from "./placement/fleet-state.ts";
export {
  addedMs,
  type Admission,
  admitJob,
  type ArrivingJob,
  choosePull,
  DEFAULT_TTL_MS,
  type PlacedJob,
  predictedWaitMs,
  type PullOptions,
  type WorkerRole,
} from "./placement/choose-pull.ts";
export {
  type HomesInput,
  homesOf,
  type HomesOptions,
  type Member,
  movedHomes,
  rendezvousOrder,
  smoothDemand,
} from "./placement/homes.ts";
export type { PreGatingRouter, Route, RouteInput, RouterState } from "./routing.ts";
export { costAware, type CostAwareOptions } from "./scheduling/cost-aware.ts";
export {
  coefficientsOf,
  DEFAULT_COST_MODEL,
  predictStepMs,
  refineCostModel,
  type CostModel,
  type RefinedCostModel,
  type StepObservation,
  type StepWork,
} from "./scheduling/cost-model.ts";
export {
  chargeClients,
  fairlyRunnable,
  nextAdmitted,
  nextPreempted,
  NO_TIMES,
  type ClientTimes,
  type Owned,
} from "./scheduling/fair-shares.ts";
export {
  byPriorityThenArrival,
  fcfs,
  type FcfsOptions,
  nextChunkTokens,
  type SchedulableSequence,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
} from "./scheduling/scheduler.ts";
export { readMe, type ReadMeSchedulerOptions } from "./scheduling/read-me.ts";
export { type PartlyRead, sharedEnd } from "./scheduling/shared-beginning.ts";
export {
  recordTrace,
  recordTraceLines,
  writeTrace,
  type ExpertTrace,
  type TraceSequence,
  type TraceStep,
} from "./record-trace.ts";
export { allowsToken, forbidOthers, sampleAllowed } from "./sampling/allowed.ts";
export {
  candidatesNeeded,
  checkRow,
  logSumExpBlock,
  needsFullLogits,
  TokenCounts,
  type LogitsRow,
} from "./sampling/logits.ts";
export {
  sampleProcessed,
  sampleToken,
  tokenLogprobs,
  type SampledToken,
  type TokenLogprobs,
} from "./sampling/sample.ts";
export { checkAnswerFormat, type AnswerFormat } from "./answer-format.ts";
export {
  recommendedMaxTokens,
  resolveSamplingParams,
  SAMPLING_PARAMETERS,
  samplingParametersWith,
  wireName,
  withSamplingDefaults,
  type ResolvedSamplingParams,
  type SamplingDefaults,
  type SamplingLimits,
  type SamplingName,
  type SamplingNameWith,
  type SamplingParameter,
  type SamplingParams,
  type WireName,
} from "./sampling/sampling-params.ts";
export { StopAutomaton, StopMatcher, type StopResult } from "./sampling/stop-strings.ts";
export { type ToolCallForm, toolCallFormOf, toolCallMarks } from "./tool-call-forms.ts";
export {
  draftChances,
  newAcceptance,
  observeDraft,
  type Acceptance,
  type DraftOutcome,
  type SourceOutcomes,
} from "./speculation/acceptance.ts";
export {
  calibrate,
  calibrationFactor,
  chargeDraft,
  chooseDraft,
  type Draft,
  type DraftAccount,
  type DraftCalibration,
  type DraftCharge,
  type DraftPlanInput,
  type DraftSource,
  expectedTokens,
  type MeasuredDrafts,
  newDraftAccount,
  NO_CALIBRATION,
  NO_ROW_COSTS,
  planDrafts,
  type PlannedDraft,
  refineRowCosts,
  type RowCosts,
  rowMsOf,
  withRowMs,
} from "./speculation/plan-drafts.ts";
