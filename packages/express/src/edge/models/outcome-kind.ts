// Who is to blame for the error that a request ended with.

import { errorChain, ReadMeError, type ErrorLink, type ReadMeErrorCode } from "@readme-moe/core";
import { ApiError } from "../../http/errors.ts";
import { ClientGone } from "../../http/request.ts";
import type { OutcomeKind } from "./engine-health.ts";

/** Codes that an engine which works tells: the client asks for what cannot be, or the engine has no room, or leaves. */
const NO_FAULTS: ReadonlySet<ReadMeErrorCode> = new Set([
  "ERR_CONTEXT_LENGTH",
  "ERR_CHAT_TEMPLATE",
  "ERR_QUEUE_FULL",
  "ERR_GRAMMAR_FAILED",
  "ERR_DISPOSED",
]);

/** @param error - what a request ended with; `undefined` for one that was answered in full */
export function outcomeKind(error: unknown): OutcomeKind {
  if (error === undefined) return "answer";
  if (error instanceof ClientGone) return "neither";
  const readMe = readMeErrorOf(error);
  if (readMe) return NO_FAULTS.has(readMe.code) ? "neither" : "fault";
  // A refusal, such as of an overloaded server, is no failure; what nobody expected is one.
  return error instanceof ApiError ? "neither" : "fault";
}

/** The first `ReadMeError` of the error and its causes: what the system has met, not what a function of the caller threw. */
export function readMeErrorOf(error: unknown): ReadMeError | undefined {
  for (let [next, depth] = [error, 0]; next instanceof Error && depth < 8; [next, depth] = [next.cause, depth + 1]) {
    if (next instanceof ReadMeError) return next;
  }
  return undefined;
}

/** What went wrong and its causes; without what its client was told in its place. */
export function faultChain(error: unknown): readonly ErrorLink[] {
  return errorChain(readMeErrorOf(error) ?? error);
}
