import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { integerOption } from "@readme-moe/core";

const MOST_THREADS = 64;

/**
 * Returns the number of the kernel's threads, at most 64.
 *
 * @param threads - by default the number of cores that this process may use, within its control group's share of time
 * @throws {TypeError|RangeError} when `threads` is no integer from 1 to 1024
 */
export function kernelThreads(threads?: number): number {
  return Math.min(MOST_THREADS, threads === undefined ? allowedCores() : integerOption("threads", threads, 1, 1024));
}

function allowedCores(): number {
  return Math.max(1, Math.min(availableParallelism(), Math.ceil(controlGroupCores() ?? Infinity)));
}

/** Reads the limit of a control group (cgroup v2, or v1) on the process's time, in cores. */
function controlGroupCores(): number | undefined {
  try {
    const [quota, period] = readFileSync("/sys/fs/cgroup/cpu.max", "utf8").trim().split(" ");
    return quota === "max" ? undefined : coresOf(quota, period);
  } catch {
    try {
      return coresOf(readFirstGroup("cpu.cfs_quota_us"), readFirstGroup("cpu.cfs_period_us"));
    } catch {
      return undefined;
    }
  }
}

function readFirstGroup(name: string): string {
  return readFileSync(`/sys/fs/cgroup/cpu/${name}`, "utf8").trim();
}

function coresOf(quota: string | undefined, period: string | undefined): number | undefined {
  const cores = Number(quota) / Number(period);
  return Number.isFinite(cores) && cores > 0 ? cores : undefined;
}
