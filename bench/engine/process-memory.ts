// Peak memory of processes, from Linux's /proc.

import { readdirSync, readFileSync } from "node:fs";

/** Adds up the peak resident memory of a process and its descendants. Bytes. */
export function peakMemoryBytes(pid: number): number {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    if (/^\d+$/.test(name)) parents.set(Number(name), parentOf(name));
  }
  const tree = [pid];
  // The list grows during the loop.
  for (const parent of tree) {
    for (const [child, its] of parents) if (its === parent) tree.push(child);
  }
  return tree.reduce((sum, each) => sum + peakBytes(each), 0);
}

function parentOf(pid: string): number {
  // A process may end while it is read.
  return Number(/^PPid:\s+(\d+)/m.exec(statusOf(pid))?.[1] ?? 0);
}

function peakBytes(pid: number): number {
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(statusOf(String(pid)))?.[1] ?? 0) * 1024;
}

function statusOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "";
  }
}
