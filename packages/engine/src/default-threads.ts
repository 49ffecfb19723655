import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

/** Threads that the kernel has by default: the cores that this process may use, within its control group's share of time. */
export function defaultThreads(): number {
  return Math.max(1, Math.min(availableParallelism(), Math.ceil(controlGroupCores() ?? Infinity), 64));
}

/** Cores' worth of time that a control group allows (cgroup v2, or v1), where it has a limit. */
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
