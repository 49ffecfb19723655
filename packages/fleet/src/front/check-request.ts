// Checks that a front makes of a request at once, before anything is sent.

import {
  checkClient,
  checkExpert,
  checkRequestShape,
  checkTraceparent,
  describeValue,
  resolveSamplingParams,
  type EngineInfo,
  type GenerateRequest,
} from "@readme-moe/core";
import { formatSource } from "@readme-moe/grammar";
import { isRequestId, type JobRequest } from "../job.ts";

/** A checked request, without its prompt. */
export type CheckedRequest = Omit<JobRequest, "promptIds" | "expertTokens">;

/** Additions of a front to requests. */
export interface RequestDefaults {
  readonly newId: () => string;
  /** Draws the seed of a request that names none. */
  readonly drawSeed: () => number;
}

/**
 * Checks a request, and fills in its id and seed.
 *
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function checkRequest(request: GenerateRequest, info: EngineInfo, defaults: RequestDefaults): CheckedRequest {
  checkRequestShape(request);
  const { params = {}, processLogits, format, prediction, priority = 0, expert, resume, traceparent } = request;
  const { client, cacheSalt } = request;
  resolveSamplingParams(params, info);
  checkClient(request);
  checkExpert(expert, info);
  checkTraceparent(traceparent);
  if (resume !== undefined) throw new TypeError("Expected no `resume`: a fleet resumes requests itself");
  if (processLogits !== undefined && typeof processLogits !== "function") {
    throw new TypeError(`Expected \`processLogits\` to be a function, got ${describeValue(processLogits)}`);
  }
  if (format !== undefined && processLogits !== undefined) {
    throw new TypeError("Expected `format` or `processLogits`, got both");
  }
  const constraint = format === undefined ? processLogits?.source : formatSource(format);
  if (processLogits && !constraint) {
    throw new TypeError(
      "Expected `processLogits` to be a constraint of @readme-moe/grammar: a function stays in its process",
    );
  }
  const id = request.id ?? defaults.newId();
  if (typeof id !== "string" || !isRequestId(id)) {
    throw new TypeError(`Expected \`id\` to be 1 to 128 of a-z A-Z 0-9 _ . -, got ${describeValue(id)}`);
  }
  const seed = params.seed ?? defaults.drawSeed();
  const owner = { id, priority, client, cacheSalt };
  return { ...owner, params: { ...params, seed }, expert, traceparent, prediction, constraint };
}
