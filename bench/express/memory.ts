// Memory of a server and of its engines, from Linux's /proc.

import { readdirSync, readFileSync } from "node:fs";

/** Processes of engines that a process has started. */
export function enginesOf(pid: number): readonly number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((one) => parentOf(one) === pid && read(one, "cmdline").includes("worker-main"));
}

export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(read(pid, "status"))?.[1] ?? NaN) * 1024;
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(read(pid, "status"))?.[1] ?? NaN);
}

/** Processes end while they are looked at; of those there is nothing to read. */
function read(pid: number, file: "cmdline" | "status"): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
