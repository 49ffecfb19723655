// What a front checks of a request at once, before anything is sent.

import {
  checkAnswerFormat,
  describeValue,
  expertIndex,
  rejectUnknownKeys,
  resolveSamplingParams,
  type AnswerFormat,
  type EngineInfo,
  type GenerateRequest,
} from "@readme-moe/core";
import type { AnswerSource } from "@readme-moe/grammar";
import { isRequestId, type JobRequest } from "../job.ts";

const NAMES = [
  "prompt",
  "params",
  "processLogits",
  "format",
  "prediction",
  "resume",
  "expert",
  "priority",
  "client",
  "id",
  "signal",
] as const satisfies readonly (keyof GenerateRequest)[];

/** A checked request, without its prompt. */
export type CheckedRequest = Omit<JobRequest, "promptIds">;

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
  if (typeof request !== "object" || request === null) {
    throw new TypeError(`Expected a request { prompt, … }, got ${describeValue(request)}`);
  }
  rejectUnknownKeys("a request", request, NAMES);
  const { params = {}, processLogits, format, prediction, priority = 0, client, expert, resume } = request;
  resolveSamplingParams(params, info);
  if (typeof priority !== "number" || !Number.isFinite(priority)) {
    throw new TypeError(`Expected \`priority\` to be a finite number, got ${describeValue(priority)}`);
  }
  if (client !== undefined && typeof client !== "string") {
    throw new TypeError(`Expected \`client\` to be a text, got ${describeValue(client)}`);
  }
  if (expert !== undefined && !(expert === "router" && info.hasRouter)) expertIndex(info.experts, expert);
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
  return { id, params: { ...params, seed }, expert, priority, client, prediction, constraint };
}

/** Describes a format as the constraint that a worker opens. @throws {TypeError} on a wrong shape */
function formatSource(format: AnswerFormat): AnswerSource {
  checkAnswerFormat(format);
  switch (format.type) {
    case "json_object":
      return { kind: "json", schema: { type: "object" }, maxWhitespace: MAX_WHITESPACE };
    case "json_schema":
      return { kind: "json", schema: format.schema, maxWhitespace: MAX_WHITESPACE };
    case "regex":
      return { kind: "regex", pattern: format.pattern };
    case "choice":
      return { kind: "choice", texts: format.choices };
    case "grammar":
      return { kind: "grammar", ebnf: format.grammar, root: format.root ?? "root" };
    default:
      throw new TypeError(`Unknown format: ${String(format satisfies never)}`);
  }
}

/** Default of `Grammars`: the most blanks in a row between two parts of JSON. */
const MAX_WHITESPACE = 16;
