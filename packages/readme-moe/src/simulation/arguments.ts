// Parsers of the arguments of `simulate`, for commander.

import { EVICTION_POLICIES, nearestName, type EvictionPolicyName } from "@readme-moe/core";
import { InvalidArgumentError } from "commander";
import { parseBytes } from "../byte-size.ts";
import { SCHEDULER_NAMES, type SchedulerName } from "./schedulers.ts";

/** `belady,lru` */
export function policyList(text: string): readonly EvictionPolicyName[] {
  return nameList(text, EVICTION_POLICIES);
}

/** `cost-aware,fcfs` */
export function schedulerList(text: string): readonly SchedulerName[] {
  return nameList(text, SCHEDULER_NAMES);
}

function nameList<Name extends string>(text: string, known: readonly Name[]): readonly Name[] {
  const names = parts(text).map((name) => {
    const found = known.find((one) => one === name);
    if (found) return found;
    const near = nearestName(name, known);
    const hint = near ? ` Did you mean ${near}?` : "";
    throw new InvalidArgumentError(`Expected names of ${known.join(", ")}.${hint}`);
  });
  return [...new Set(names)];
}

/** `2,3,4,5` */
export function capacityList(text: string): readonly number[] {
  return parts(text).map((part) => {
    if (/^\d+$/.test(part) && Number(part) >= 1 && Number.isSafeInteger(Number(part))) return Number(part);
    throw new InvalidArgumentError("Expected numbers of experts, such as 2,3,4,5.");
  });
}

/** `300MB,1.5GiB`, in bytes */
export function memoryList(text: string): readonly number[] {
  return parts(text).map((part) => {
    const bytes = parseBytes(part);
    if (bytes !== undefined) return bytes;
    throw new InvalidArgumentError("Expected sizes in memory, such as 300MB or 1.5GiB.");
  });
}

/** A number above 0. */
export function positive(text: string): number {
  if (text.trim() !== "" && Number.isFinite(Number(text)) && Number(text) > 0) return Number(text);
  throw new InvalidArgumentError("Expected a number above 0.");
}

/** A number from 1 up. */
export function fromOne(text: string): number {
  if (text.trim() !== "" && Number.isFinite(Number(text)) && Number(text) >= 1) return Number(text);
  throw new InvalidArgumentError("Expected a number from 1 up.");
}

/** A number from 0 to 1. */
export function share(text: string): number {
  if (text.trim() !== "" && Number(text) >= 0 && Number(text) <= 1) return Number(text);
  throw new InvalidArgumentError("Expected a number from 0 to 1.");
}

function parts(text: string): readonly string[] {
  return text.split(",").map((part) => part.trim());
}
