// Public names of @readme-moe/core. A module that stands here as a whole exports nothing else.

export * from "./answer-format.ts";
export * from "./check-request.ts";
export * from "./engine.ts";
export * from "./errors.ts";
export * from "./events.ts";
export * from "./expert-cache/cached-units.ts";
export * from "./expert-cache/eviction-policy.ts";
export * from "./expert-cache/expert-cache.ts";
export * from "./expert-cache/next-step.ts";
export * from "./expert-cache/read-ahead-trial.ts";
export * from "./expert-cache/route-forecast.ts";
export * from "./generation.ts";
export * from "./loading.ts";
export * from "./options.ts";
export * from "./option-table.ts";
export * from "./pattern-syntax.ts";
export * from "./placement/choose-pull.ts";
export * from "./placement/fleet-state.ts";
export * from "./placement/homes.ts";
export * from "./pooling.ts";
export * from "./process-logits.ts";
export * from "./record-trace.ts";
export * from "./routing.ts";
export * from "./sampling/allowed.ts";
export * from "./sampling/sampling-params.ts";
export * from "./sampling/stop-strings.ts";
export * from "./scheduling/cost-aware.ts";
export * from "./scheduling/read-me.ts";
export * from "./speculation/acceptance.ts";
export * from "./speculation/plan-drafts.ts";
export * from "./task-flow.ts";
export * from "./answer-forms.ts";

// Modules of which only a part is public.
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
export { seededRandom, uniformAt } from "./random.ts";
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
  byPriorityThenArrival,
  chargeClients,
  type ClientTimes,
  fairlyRunnable,
  fcfs,
  type FcfsOptions,
  nextAdmitted,
  nextChunkTokens,
  nextPreempted,
  NO_TIMES,
  type Owned,
  type PartlyRead,
  type SchedulableSequence,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
  sharedEnd,
} from "./scheduling/scheduler.ts";
export {
  allowsToken,
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
