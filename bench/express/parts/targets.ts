import type { Target } from "../../kit/suite.ts";

export function targetUnder(what: string, value: number, unit: string, limit: number): Target {
  return { what, value, unit, wanted: "under", limit };
}

/** Makes the target that there are none of something. */
export function noneOf(what: string, count: number): Target {
  return targetUnder(what, count, "", 1);
}
