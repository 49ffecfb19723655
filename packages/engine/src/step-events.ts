// Payloads of the events of a step and of its sequences.

import type { GeneratedToken, ReadMeEvents } from "@readme-moe/core";
import { draftCounts, expertsOf, type BatchItem } from "./batch.ts";
import type { Sequence } from "./sequence.ts";
import { draftUsage } from "./speculation/draft-counts.ts";
import type { ForecastUses } from "./step-planner.ts";

type Payload<Name extends keyof ReadMeEvents> = Parameters<ReadMeEvents[Name]>[0];

/** Describes a step before it runs. @param numWaiting - number of sequences that wait for KV memory */
export function scheduledEvent(
  step: number,
  batch: readonly BatchItem[],
  numWaiting: number,
  forecast: ForecastUses,
): Payload<"batch:scheduled"> {
  return {
    step,
    sequenceIds: batch.map(({ sequence }) => sequence.id),
    numTokens: batch.map(({ numTokens }) => numTokens),
    positions: batch.map(({ sequence }) => sequence.numComputedTokens),
    ...draftCounts(batch),
    distinctExperts: expertsOf(batch).size,
    numWaiting,
    ...forecast,
  };
}

/** Describes a new token, before it is the sequence's last one. */
export function tokenEvent(
  sequence: Sequence,
  { id: tokenId }: GeneratedToken,
  position: number,
  nowMs: number,
): Payload<"token:generated"> {
  const isFirst = position === sequence.promptTokens;
  return { sequenceId: sequence.id, tokenId, position, sinceMs: nowMs - sequence.lastTokenMs, isFirst };
}

type FinishedEvent = Payload<"sequence:finished">;

/** Describes the end of a sequence. */
export function finishedEvent(sequence: Sequence, reason: FinishedEvent["reason"], nowMs: number): FinishedEvent {
  return {
    sequenceId: sequence.id,
    reason,
    promptTokens: sequence.promptTokens,
    completionTokens: sequence.completionTokens,
    cachedTokens: sequence.cachedTokens,
    ...draftUsage(sequence.drafts),
    queuedMs: (sequence.startedMs ?? nowMs) - sequence.arrivalMs,
    durationMs: nowMs - sequence.arrivalMs,
  };
}
