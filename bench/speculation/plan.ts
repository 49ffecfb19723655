// Chooses the requests that are measured: their answers without speculation decide.

import type { Engine } from "@readme-moe/core";
import { type Answer, answerOf, type Processor, promptTokens, type ReadyRequest } from "./answer.ts";
import type { DraftedRequest } from "./request.ts";
import { lengthBeforeLoop, quotedShare } from "./tokens.ts";

/** A request with the answer that every engine has to give. */
export interface PlannedRequest extends ReadyRequest {
  readonly expected: Pick<Answer, "tokenIds" | "finishReason">;
  readonly text: string;
}

/** The chosen requests of one kind. */
export interface Plan {
  readonly requests: readonly PlannedRequest[];
  /** Requests that were tried. */
  readonly numTried: number;
  /** Chosen requests whose answers were cut before a loop. */
  readonly numCut: number;
  /** Tried requests whose answers looped in their first half. */
  readonly numLooping: number;
  /** Tried requests whose answers ended after few tokens. */
  readonly numShort: number;
}

export interface PlanOptions {
  /** Number of requests to choose. */
  readonly count: number;
  /** Most tokens of an answer. */
  readonly tokens: number;
  readonly processorOf: Processor;
}

const AT_ONCE = 8;
const MIN_TOKENS = 16;

/** Runs requests in order until enough of them are usable. @throws {RangeError} if too few are */
export async function planRequests(
  engine: Engine,
  drafted: readonly DraftedRequest[],
  { count, tokens, processorOf }: PlanOptions,
): Promise<Plan> {
  const judged: Judged[] = [];
  for (let from = 0; from < drafted.length && usable(judged).length < count; from += AT_ONCE) {
    const some = drafted.slice(from, from + AT_ONCE).map(async (request) => {
      const ready = { ...request, promptIds: await promptTokens(engine, request), maxTokens: tokens };
      return judgeAnswer(ready, await answerOf(engine, ready, processorOf));
    });
    judged.push(...(await Promise.all(some)));
  }
  const requests = usable(judged).slice(0, count);
  if (requests.length < count) {
    const kind = drafted[0]?.kind ?? "none";
    throw new RangeError(
      `Expected ${count} usable requests of kind ${kind}, got ${requests.length} of ${judged.length}`,
    );
  }
  const numOf = (verdict: Judged["verdict"]): number => judged.filter((one) => one.verdict === verdict).length;
  return {
    requests,
    numTried: judged.length,
    numCut: requests.filter(({ maxTokens }) => maxTokens < tokens).length,
    numLooping: numOf("looping"),
    numShort: numOf("short"),
  };
}

interface Judged {
  readonly verdict: "usable" | "looping" | "short";
  readonly request: PlannedRequest;
}

function usable(judged: readonly Judged[]): readonly PlannedRequest[] {
  return judged.filter(({ verdict }) => verdict === "usable").map(({ request }) => request);
}

/** Cuts an answer before its first loop, and judges whether enough of it is left. */
export function judgeAnswer(ready: ReadyRequest, answer: Pick<Answer, "tokenIds" | "finishReason" | "text">): Judged {
  const length = lengthBeforeLoop(answer.tokenIds);
  const isCut = length < answer.tokenIds.length;
  const request: PlannedRequest = {
    ...ready,
    maxTokens: isCut ? Math.max(1, length) : ready.maxTokens,
    expected: {
      tokenIds: answer.tokenIds.slice(0, length),
      finishReason: isCut ? "length" : answer.finishReason,
    },
    text: answer.text,
  };
  const isLooping = isCut && length < ready.maxTokens / 2;
  const isShort = answer.tokenIds.length < Math.min(MIN_TOKENS, ready.maxTokens);
  return { verdict: isLooping ? "looping" : isShort ? "short" : "usable", request };
}

/** Shares of answer tokens that prompts foretell, over all answers of a plan. */
export function quotedShareOf({ requests }: Pick<Plan, "requests">): number {
  const shares = requests.map(({ promptIds, expected }) => quotedShare(promptIds, expected.tokenIds));
  const weights = requests.map(({ expected }) => Math.max(0, expected.tokenIds.length - 3));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return shares.reduce((sum, share, index) => sum + (weights[index] ? share * weights[index] : 0), 0) / total;
}
