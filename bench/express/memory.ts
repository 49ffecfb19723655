// Reads the memory of a server and of its engines from Linux's /proc.

import { readdirSync, readFileSync } from "node:fs";

/** Lists the engine processes that a process has started. */
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

/** Reads a file of a process; empty when the process has ended meanwhile. */
function read(pid: number, file: "cmdline" | "status"): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
