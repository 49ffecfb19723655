// Checks of a request that every engine makes at once, wherever the model runs.

import type { EngineInfo, GenerateRequest } from "./engine.ts";
import { expertIndex, isTraceparent } from "./generation.ts";
import { describeValue, rejectUnknownKeys } from "./options.ts";

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
  "cacheSalt",
  "traceparent",
  "id",
  "signal",
] as const satisfies readonly (keyof GenerateRequest)[];

/** Checks that a request is an object with known fields. @throws {TypeError} */
export function checkRequestShape(request: GenerateRequest): void {
  if (typeof request !== "object" || request === null) {
    throw new TypeError(`Expected a request { prompt, … }, got ${describeValue(request)}`);
  }
  rejectUnknownKeys("a request", request, NAMES);
}

/** @throws {TypeError} naming the option, the expectation and the value */
export function checkClient({
  priority = 0,
  ...names
}: Pick<GenerateRequest, "priority" | "client" | "cacheSalt">): void {
  if (typeof priority !== "number" || !Number.isFinite(priority)) {
    throw new TypeError(`Expected \`priority\` to be a finite number, got ${describeValue(priority)}`);
  }
  for (const name of ["client", "cacheSalt"] as const) {
    if (names[name] === undefined || typeof names[name] === "string") continue;
    throw new TypeError(`Expected \`${name}\` to be a text, got ${describeValue(names[name])}`);
  }
}

/** @throws {TypeError} naming the option, the expectation and the value */
export function checkTraceparent(traceparent: unknown): void {
  if (traceparent === undefined || (typeof traceparent === "string" && isTraceparent(traceparent))) return;
  throw new TypeError(`Expected \`traceparent\` to be one of W3C's Trace Context, got ${describeValue(traceparent)}`);
}

/** @throws {RangeError} on an unknown expert; names the known ones */
export function checkExpert(
  expert: string | number | undefined,
  { experts, hasRouter }: Pick<EngineInfo, "experts" | "hasRouter">,
): void {
  if (expert === undefined || (expert === "router" && hasRouter)) return;
  expertIndex(experts, expert);
}
