import { chunkCandidates, longestOverdue, StepDraft, type Candidate, type Scheduler } from "./scheduler.ts";

/** Options of `fcfs`. */
export interface FcfsOptions {
  /**
   * The share of a step, of its tokens and of its places for sequences, that prefill may take while other sequences
   * decode, in `[0, 1]`. Within it prefill goes first: 0 decodes first and prefills only if no sequence can decode, 1
   * prefills first and decodes in what is left (the two baselines of Read-ME, section 5). Any share above 0 admits at
   * least one chunk. `"by-arrival"`: no share; the earlier arrival goes first, decoding or not.
   * @default "by-arrival"
   */
  readonly prefillShare?: number | "by-arrival" | undefined;
  /** Longest wait in ms, after which a sequence goes first. @default Infinity */
  readonly maxDelayMs?: number | undefined;
}

/**
 * Schedules first come, first served: sequences in order of priority, then of arrival, as many as fit. A chunk that
 * does not fit is left for the next step, and later ones may go ahead of it.
 */
export function fcfs({ prefillShare = "by-arrival", maxDelayMs = Infinity }: FcfsOptions = {}): Scheduler {
  return (state) => {
    const { limits, nowMs } = state;
    const candidates = chunkCandidates(state);
    const draft = new StepDraft(limits);
    const overdue = longestOverdue(candidates, nowMs, maxDelayMs);
    if (overdue) draft.add(overdue);
    const share = candidates.some(({ isDecoding }) => isDecoding) ? prefillShare : "by-arrival";
    if (share === "by-arrival") {
      for (const candidate of candidates) if (candidate !== overdue) draft.add(candidate);
      return draft.scheduled;
    }
    let prefillSeqsLeft = Math.ceil(share * limits.maxNumBatchedSeqs);
    let prefillTokensLeft = share * limits.maxNumBatchedTokens;
    let hasPrefill = false;
    for (const candidate of candidates.toSorted(prefillFirst)) {
      if (candidate === overdue) continue;
      const { isDecoding, numTokens } = candidate;
      if (isDecoding) {
        draft.add(candidate);
        continue;
      }
      const isWithinShare = prefillSeqsLeft > 0 && (numTokens <= prefillTokensLeft || !hasPrefill);
      if (!isWithinShare || !draft.add(candidate)) continue;
      hasPrefill = true;
      prefillSeqsLeft--;
      prefillTokensLeft -= numTokens;
    }
    return draft.scheduled;
  };
}

/** Orders by priority, then prefill before decoding; the sort is stable, so arrival decides the rest. */
function prefillFirst(a: Candidate, b: Candidate): number {
  return b.sequence.priority - a.sequence.priority || Number(a.isDecoding) - Number(b.isDecoding);
}
