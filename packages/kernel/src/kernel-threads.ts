import { availableParallelism } from "node:os";
import { integerOption } from "@readme-moe/core";
import { controlGroups, readSystem, type ReadText } from "./free-memory.ts";
import { type Addon, loadAddon } from "./native-kernel.ts";

const MOST_THREADS = 64;

/**
 * Returns the number of the kernel's threads, at most 64.
 *
 * @param threads - by default one for each core that this process may use, within its control groups' shares of time
 * @throws {TypeError|RangeError} when `threads` is no integer from 1 to 1024
 */
export function kernelThreads(threads?: number): number {
  const chosen =
    threads === undefined
      ? defaultThreads(availableParallelism(), readSystem)
      : integerOption("threads", threads, 1, 1024);
  return Math.min(MOST_THREADS, chosen);
}

/**
 * Chooses a number of threads.
 *
 * @param numProcessors - number of logical processors that this process may use, by the runtime
 * @param read - reads Linux's files about processors and control groups
 */
export function defaultThreads(numProcessors: number, read: ReadText): number {
  const limits = [numProcessors, usableCores(read), Math.ceil(controlGroupCores(read))];
  return Math.max(1, Math.min(...limits));
}

/**
 * Counts the physical cores of the allowed processors. Two threads of one core compute little more than one; but where
 * there is one core only, its second thread fills the first one's waits, and there is no third to wait for.
 */
function usableCores(read: ReadText): number {
  const allowed = /^Cpus_allowed_list:\s*(.*)$/m.exec(read("/proc/self/status") ?? "")?.[1];
  if (allowed === undefined) return Infinity;
  const online = read("/sys/devices/system/cpu/online");
  const isOnline = online === undefined ? undefined : new Set(numbersOf(online));
  const processors = numbersOf(allowed).filter((processor) => isOnline?.has(processor) ?? true);
  if (processors.length === 0) return Infinity;
  const cores = new Set(processors.map((processor) => coreOf(processor, read)));
  return Math.max(cores.size, Math.min(2, processors.length));
}

/** Names a processor's core by the list of its threads. */
function coreOf(processor: number, read: ReadText): string {
  const topology = `/sys/devices/system/cpu/cpu${processor}/topology`;
  const threads = read(`${topology}/core_cpus_list`) ?? read(`${topology}/thread_siblings_list`);
  return threads?.trim() || String(processor);
}

/** Parses a list such as `0-3,8`. */
function numbersOf(list: string): readonly number[] {
  const ranges = list.trim().split(",").filter(Boolean);
  return ranges.flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?];
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** Returns the smallest limit of this process's control groups, of both versions, on its time, in cores. */
function controlGroupCores(read: ReadText): number {
  const groups = controlGroups("cpu", read);
  return Math.min(
    Infinity,
    ...groups.map(({ folder, version }) => (version === 2 ? newLimit(folder, read) : oldLimit(folder, read))),
  );
}

function newLimit(folder: string, read: ReadText): number {
  const [quota, period] = (read(`${folder}/cpu.max`) ?? "").trim().split(" ");
  return coresOf(quota, period);
}

function oldLimit(folder: string, read: ReadText): number {
  return coresOf(read(`${folder}/cpu.cfs_quota_us`), read(`${folder}/cpu.cfs_period_us`));
}

function coresOf(quota: string | undefined, period: string | undefined): number {
  const cores = Number(quota) / Number(period);
  return Number.isFinite(cores) && cores > 0 ? cores : Infinity;
}

/** `undefined` before the first call, `null` on a platform without addon. */
let addon: Addon | null | undefined;

/**
 * Returns memory that this process has freed to the system, since C libraries keep it after a burst. Does nothing
 * without an addon, and when the library returns memory by itself.
 */
export function returnFreeMemory(): void {
  try {
    addon ??= loadAddon();
  } catch {
    addon = null;
  }
  addon?.returnFreeMemory();
}
