// A caller's own say in whose turn it is, once a prompt's routes are known.

import { describeValue } from "@readme-moe/core";

/** A request that was let in, before the engine gets it. Plain data. */
export interface RoutedRequest {
  readonly model: string | undefined;
  readonly key: string | undefined;
  readonly priority: number;
  readonly choices: number;
  /** Of each choice, at most. */
  readonly maxCompletionTokens: number;
  /** Of all its prompts. */
  readonly promptTokens: number;
  /** Names of the model's experts. */
  readonly experts: readonly string[];
  /** Tokens of its prompts that go to each expert, `[numExperts]`. */
  readonly expertTokens: readonly number[];
  /** The same of all other requests of the model that are in: which experts are wanted, or in memory, anyway. */
  readonly othersTokens: readonly number[];
  /** When it could begin to run if nobody went before it who comes later, in ms; where that can be told. */
  readonly turnMs: number | undefined;
}

/**
 * Sees where a request's tokens go; may give it another priority, or throw an `ApiError`, which is the answer then.
 * Requests keep their deadlines, whatever it says.
 */
export type AdmissionPolicy = (request: RoutedRequest) => PolicyDecision | void | Promise<PolicyDecision | void>;

/** What a policy changes about a request. */
export interface PolicyDecision {
  /** Larger numbers go first. @default what the request asked for */
  readonly priority?: number | undefined;
}

/** @throws {TypeError} when the policy decides on what is no priority; and whatever it throws itself */
export async function decidedPriority(policy: AdmissionPolicy, request: RoutedRequest): Promise<number> {
  const priority = (await policy(request))?.priority ?? request.priority;
  if (typeof priority === "number" && Number.isFinite(priority)) return priority;
  throw new TypeError(`Expected \`policy\` to give a finite \`priority\`, got ${describeValue(priority)}`);
}
