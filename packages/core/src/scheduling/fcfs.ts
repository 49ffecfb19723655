import { candidatesOf, longestOverdue, type Candidate } from "./candidates.ts";
import type { Scheduler } from "./scheduler.ts";
import { StepDraft } from "./step-draft.ts";

/** Of `fcfs`: how prefill and decoding share a step, and how long anybody waits at most. */
export interface FcfsOptions {
  /**
   * The share of a step, of its tokens and of its places for sequences, that prefill may take while others decode, in
   * `[0, 1]`. Within it prefill goes first: 0 decodes first and prefills only when nobody can decode, 1 prefills first and
   * decodes in what is left (the two baselines of Read-ME, section 5). Any share above 0 lets one chunk in.
   * `"by-arrival"`: no share; decoding or not, who came first goes first.
   * @default "by-arrival"
   */
  readonly prefillShare?: number | "by-arrival" | undefined;
  /** A sequence that waited longer goes first. @default Infinity */
  readonly maxDelayMs?: number | undefined;
}

/**
 * First come, first served: sequences in order of priority, then of arrival, as many as fit. A chunk that does not fit
 * any more is left for the next step, and those behind it may go ahead.
 */
export function fcfs({ prefillShare = "by-arrival", maxDelayMs = Infinity }: FcfsOptions = {}): Scheduler {
  return (state) => {
    const { limits, nowMs } = state;
    const candidates = candidatesOf(state);
    const draft = new StepDraft(limits);
    const overdue = longestOverdue(candidates, nowMs, maxDelayMs);
    if (overdue) draft.take(overdue);
    const share = candidates.some(({ isDecoding }) => isDecoding) ? prefillShare : "by-arrival";
    if (share === "by-arrival") {
      for (const candidate of candidates) if (candidate !== overdue) draft.take(candidate);
      return draft.scheduled;
    }
    let prefillSeqsLeft = Math.ceil(share * limits.maxNumBatchedSeqs);
    let prefillTokensLeft = share * limits.maxNumBatchedTokens;
    let hasPrefill = false;
    for (const candidate of candidates.toSorted(prefillFirst)) {
      if (candidate === overdue) continue;
      const { isDecoding, numTokens } = candidate;
      if (isDecoding) {
        draft.take(candidate);
        continue;
      }
      const isWithinShare = prefillSeqsLeft > 0 && (numTokens <= prefillTokensLeft || !hasPrefill);
      if (!isWithinShare || !draft.take(candidate)) continue;
      hasPrefill = true;
      prefillSeqsLeft--;
      prefillTokensLeft -= numTokens;
    }
    return draft.scheduled;
  };
}

/** Among equal priorities; sorting is stable, so arrival decides the rest. */
function prefillFirst(a: Candidate, b: Candidate): number {
  return b.sequence.priority - a.sequence.priority || Number(a.isDecoding) - Number(b.isDecoding);
}
