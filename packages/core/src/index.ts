export type { ChatContentPart, ChatMessage } from "./chat-message.ts";
export type {
  AcceptedPrompt,
  Engine,
  EngineInfo,
  EngineStats,
  ExpertCacheStats,
  EngineVocabulary,
  FinishReason,
  GenerateChunk,
  GeneratedToken,
  GenerateRequest,
  Generation,
  LogitsContext,
  ProcessLogits,
  Prompt,
  ChatPrompt,
  RoutedPrompt,
  TokenizeOptions,
  TokenLogprob,
  Usage,
} from "./engine.ts";
export type { KernelInfo } from "./kernel-info.ts";
export { errorChain, type ErrorLink } from "./error-chain.ts";
export { ReadMeError, type ReadMeErrorCode } from "./errors.ts";
export { expertIndex } from "./expert-choice.ts";
export { ReadMeEmitter } from "./emitter.ts";
export type { ExpertRun, ReadMeEvents } from "./events.ts";
export { usedBytes, type CachedUnit, type ExpertCacheState } from "./expert-cache/cache-state.ts";
export {
  EVICTION_POLICIES,
  resolveEvictionPolicy,
  type EvictionCandidate,
  type EvictionContext,
  type EvictionPolicy,
  type EvictionPolicyName,
} from "./expert-cache/eviction-policy.ts";
export { ExpertCache, type ExpertCacheCounters, type ExpertCacheOptions } from "./expert-cache/expert-cache.ts";
export { keepAwaited, type AwaitedReads } from "./expert-cache/keep-awaited.ts";
export type { KnownUses, StepUses } from "./expert-cache/known-uses.ts";
export { planBudget, type BudgetPlan } from "./expert-cache/plan-budget.ts";
export { planReads, type EvictedUnit, type PlanOptions, type ReadPlan } from "./expert-cache/plan-reads.ts";
export { expertBytes, unitBytes, unitIndex, type ExpertLayout, type ExpertUnit } from "./expert-cache/unit.ts";
export {
  upcomingUses,
  type UpcomingQueue,
  type UpcomingStep,
  type UpcomingUses,
} from "./expert-cache/upcoming-uses.ts";
export { choiceOption, describeValue, integerOption, nearestName, numberOption, rejectUnknownKeys } from "./options.ts";
export { everythingResident, type Residency, type StreamedResidency } from "./residency.ts";
export type { PreGatingRouter, Route, RouteInput, RouterState } from "./routing.ts";
export { costAware, type CostAwareOptions } from "./scheduling/cost-aware.ts";
export { DEFAULT_COST_MODEL, predictStepMs, type CostModel, type StepWork } from "./scheduling/cost-model.ts";
export {
  chargeClients,
  fairlyRunnable,
  nextAdmitted,
  nextPreempted,
  NO_TIMES,
  type ClientTimes,
  type Owned,
} from "./scheduling/fair-shares.ts";
export { fcfs, type FcfsOptions } from "./scheduling/fcfs.ts";
export { readMe, type ReadMeSchedulerOptions } from "./scheduling/read-me.ts";
export { refineCostModel, type RefinedCostModel, type StepObservation } from "./scheduling/refine-cost-model.ts";
export {
  byPriorityThenArrival,
  nextChunkTokens,
  type SchedulableSequence,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
} from "./scheduling/scheduler.ts";
export { cacheBounds, hitRatio, unitRequests, type CacheBounds } from "./simulation/cache-bounds.ts";
export { generateTrace, type GeneratedTraceOptions } from "./simulation/generate-trace.ts";
export { recordTrace, recordTraceLines } from "./simulation/record-trace.ts";
export { replayLayer } from "./simulation/replay-layer.ts";
export { replayRecorded, type RecordedStep } from "./simulation/replay-recorded.ts";
export { replaySteps } from "./simulation/replay-steps.ts";
export { replayUnits, type UnitReplay } from "./simulation/replay-units.ts";
export { simulate, type SimulationOptions, type SimulationResult } from "./simulation/simulate.ts";
export type { Spread } from "./simulation/statistics.ts";
export { readTrace, writeTrace } from "./simulation/trace-lines.ts";
export type { ExpertTrace, TraceSequence, TraceStep } from "./simulation/trace.ts";
export { checkRow, logSumExpBlock, type LogitsRow } from "./sampling/logits-row.ts";
export { tokenLogprobs, type TokenLogprobs } from "./sampling/logprobs.ts";
export { sampleProcessed } from "./sampling/processed-logits.ts";
export { candidatesNeeded, needsFullLogits } from "./sampling/row-needs.ts";
export { sampleToken, type SampledToken } from "./sampling/sample.ts";
export {
  resolveSamplingParams,
  type ResolvedSamplingParams,
  type SamplingLimits,
  type SamplingParams,
} from "./sampling/sampling-params.ts";
export { StopAutomaton } from "./sampling/stop-automaton.ts";
export { StopMatcher, type StopResult } from "./sampling/stop-strings.ts";
export { TokenCounts } from "./sampling/token-counts.ts";
export { uniformAt } from "./sampling/uniform.ts";
export { seededRandom } from "./seeded-random.ts";
export { checkTemplateValues } from "./template-values.ts";
