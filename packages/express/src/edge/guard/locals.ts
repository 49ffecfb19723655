import type { Response } from "express";
import type { RequestLocals } from "../../http/request.ts";

/** What the guard knows of a request, in `res.locals.readMe`. */
export interface GuardedLocals extends Omit<RequestLocals, "key"> {
  /** Name of the client's key, where keys are asked for. */
  key: string | undefined;
  /** https://www.w3.org/TR/trace-context, where the client sent a valid one. */
  readonly traceparent: string | undefined;
  /** Counts tokens against what the client may use in a minute; to be called when they are known. */
  spendTokens: (tokens: number) => void;
}

export function guardedLocals(response: Response): GuardedLocals {
  return (response.locals as { readMe: GuardedLocals }).readMe;
}
