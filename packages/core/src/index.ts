export type { ChatContentPart, ChatMessage } from "./chat-message.ts";
export type {
  Engine,
  EngineInfo,
  EngineStats,
  FinishReason,
  GenerateChunk,
  GeneratedToken,
  GenerateRequest,
  LogitsContext,
  ProcessLogits,
  Prompt,
  RoutedPrompt,
  TokenLogprob,
  Usage,
} from "./engine.ts";
export { ReadMeError, type ReadMeErrorCode } from "./errors.ts";
export { expertIndex } from "./expert-choice.ts";
export { ReadMeEmitter, type ReadMeEvents } from "./events.ts";
export { choiceOption, describeValue, integerOption, nearestName, rejectUnknownKeys } from "./options.ts";
export { everythingResident, type Residency } from "./residency.ts";
export type { PreGatingRouter, Route, RouteInput, RouterState } from "./routing.ts";
export {
  byPriorityThenArrival,
  fcfs,
  nextChunkTokens,
  type SchedulableSequence,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
} from "./scheduler.ts";
export { checkRow, type LogitsRow } from "./sampling/logits-row.ts";
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
