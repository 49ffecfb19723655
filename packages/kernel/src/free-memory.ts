// Control groups of this process, and the memory that it can still take.

import { readFileSync } from "node:fs";
import { freemem, totalmem } from "node:os";

const CONTROL_GROUPS = "/sys/fs/cgroup";

/** Reads a text file of the system; undefined when there is none. */
export type ReadText = (path: string) => string | undefined;

export function readSystem(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** Returns the memory that this process can still take, in bytes, within its control groups' limits. */
export function freeMemoryBytes(): number {
  return freeMemory({ platform: process.platform, freeBytes: freemem(), totalBytes: totalmem() }, readSystem);
}

/** Memory of a machine by the runtime. */
interface MachineMemory {
  readonly platform: string;
  /** Memory that is free; on Linux with what the system can take back from caches of files. */
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/**
 * Computes the memory that a process can still take, in bytes.
 *
 * @param read - reads Linux's files about control groups
 */
export function freeMemory({ platform, freeBytes, totalBytes }: MachineMemory, read: ReadText): number {
  // macOS counts no caches as free; about half of its memory can be had while programs run.
  const machine = platform === "darwin" ? Math.max(freeBytes, totalBytes / 2) : freeBytes;
  const groups = controlGroups("memory", read).map(({ folder, version }) => freeInGroup(folder, version, read));
  return Math.max(0, Math.floor(Math.min(machine, ...groups)));
}

/** Returns what a group's limit leaves; caches of files are taken back before the limit counts. */
function freeInGroup(folder: string, version: 1 | 2, read: ReadText): number {
  const [limits, usage, prefix] =
    version === 2
      ? [["memory.max", "memory.high"], "memory.current", ""]
      : [["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_"];
  const limit = Math.min(...limits.map((name) => numberIn(read(`${folder}/${name}`)) ?? Infinity));
  const used = numberIn(read(`${folder}/${usage}`));
  if (limit === Infinity || used === undefined) return limit;
  const statistics = read(`${folder}/memory.stat`) ?? "";
  const cached = ["active_file", "inactive_file"].map((name) => {
    const line = new RegExp(`^${prefix}${name} (\\d+)$`, "m").exec(statistics);
    return numberIn(line?.[1]) ?? 0;
  });
  return (
    limit -
    Math.max(
      0,
      cached.reduce((left, bytes) => left - bytes, used),
    )
  );
}

function numberIn(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+\s*$/.test(text) ? Number(text) : undefined;
}

/** A control group of this process, or one above it. */
interface ControlGroup {
  readonly folder: string;
  readonly version: 1 | 2;
}

/** Lists this process's control groups that may limit something, such as "cpu", and those above them. */
export function controlGroups(controller: string, read: ReadText): readonly ControlGroup[] {
  const lines = (read("/proc/self/cgroup") ?? `0::/\n0:${controller}:/`).trim().split("\n");
  return lines.flatMap((line): readonly ControlGroup[] => {
    const [, controllers = "", ...path] = line.split(":");
    const folders = ancestorsOf(path.join(":"));
    if (controllers === "") return folders.map((folder) => ({ folder: `${CONTROL_GROUPS}${folder}`, version: 2 }));
    if (!controllers.split(",").includes(controller)) return [];
    const mounts = [...new Set([controller, controllers])];
    return mounts.flatMap((mount) =>
      folders.map((folder) => ({ folder: `${CONTROL_GROUPS}/${mount}${folder}`, version: 1 as const })),
    );
  });
}

/** Lists the folders from a control group to the root, which a container may see in the group's place. */
function ancestorsOf(path: string): readonly string[] {
  const names = path.split("/").filter((name) => name !== "" && name !== "..");
  return [...names.map((_, i) => `/${names.slice(0, i + 1).join("/")}`), ""];
}
