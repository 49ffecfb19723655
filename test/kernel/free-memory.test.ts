// Memory that a process can take: the machine's, within the limits of its control groups.

import { freemem, totalmem } from "node:os";
import { freeMemoryBytes } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { freeMemory } from "../../packages/kernel/src/free-memory.ts";

const [MB, FREE, TOTAL] = [1e6, 4000e6, 8000e6];
const SLICE = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope";

/** Files of a system whose process is in a control group. */
function inGroup(line: string, files: Readonly<Record<string, string | number>>) {
  const all: Readonly<Record<string, string>> = {
    "/proc/self/cgroup": `${line}\n`,
    ...Object.fromEntries(Object.entries(files).map(([path, text]) => [`/sys/fs/cgroup/${path}`, `${text}\n`])),
  };
  return (path: string): string | undefined => all[path];
}

const statistics = (prefix: string, inactive: number, active: number): string =>
  `${prefix}anon 1\n${prefix}inactive_file ${inactive}\n${prefix}active_file ${active}\nworkingset_activate_file 9999999999`;

test.each<[string, number, (path: string) => string | undefined]>([
  ["what the runtime says where nothing else does", FREE, () => undefined],
  ["no limit of a group", FREE, inGroup("0::/", { "memory.max": "max", "memory.current": 900 * MB })],
  ["a limit that is more than what is free", FREE, inGroup("0::/", { "memory.max": 6000 * MB, "memory.current": 1 })],
  ["the rest of a limit", 700 * MB, inGroup("0::/", { "memory.max": 1000 * MB, "memory.current": 300 * MB })],
  [
    "the rest of a limit without caches of files, which are taken back",
    950 * MB,
    inGroup("0::/", {
      "memory.max": 1000 * MB,
      "memory.current": 900 * MB,
      "memory.stat": statistics("", 600 * MB, 250 * MB),
    }),
  ],
  [
    "nothing where a group has used more than it may",
    0,
    inGroup("0::/", { "memory.max": 100 * MB, "memory.current": 101 * MB }),
  ],
  [
    "the limit that slows a group down",
    300 * MB,
    inGroup("0::/", { "memory.max": 1000 * MB, "memory.high": 500 * MB, "memory.current": 200 * MB }),
  ],
  [
    "the least rest of the groups above",
    100 * MB,
    inGroup(`0::${SLICE}`, {
      "kubepods.slice/memory.max": 900 * MB,
      "kubepods.slice/memory.current": 800 * MB,
      [`${SLICE.slice(1)}/memory.max`]: 500 * MB,
      [`${SLICE.slice(1)}/memory.current`]: 200 * MB,
    }),
  ],
  [
    "a limit at the place of the root, which is the group's",
    50 * MB,
    inGroup(`0::${SLICE}`, { "memory.max": 150 * MB, "memory.current": 100 * MB }),
  ],
  [
    "the rest of a limit of version 1",
    800 * MB,
    inGroup("5:memory:/docker/a\n4:cpu,cpuacct:/docker/a", {
      "memory/docker/a/memory.limit_in_bytes": 1000 * MB,
      "memory/docker/a/memory.usage_in_bytes": 600 * MB,
      "memory/docker/a/memory.stat": statistics("total_", 300 * MB, 100 * MB),
      "memory/memory.limit_in_bytes": "9223372036854771712",
    }),
  ],
  ["a limit whose use is unknown", 600 * MB, inGroup("0::/", { "memory.max": 600 * MB })],
  ["no limit where its file is damaged", FREE, inGroup("0::/", { "memory.max": "", "memory.current": "x" })],
])("is %s", (_, bytes, read) => {
  expect(freeMemory({ platform: "linux", freeBytes: FREE, totalBytes: TOTAL }, read)).toBe(bytes);
});

test("is at least half of a Mac's memory, whose system counts no caches as free", () => {
  const on = (freeBytes: number): number =>
    freeMemory({ platform: "darwin", freeBytes, totalBytes: TOTAL }, () => undefined);
  expect([on(100 * MB), on(6000 * MB)]).toEqual([TOTAL / 2, 6000 * MB]);
});

test("is a part of this machine's memory", () => {
  const bytes = freeMemoryBytes();
  expect(bytes).toBeGreaterThan(0);
  expect(bytes).toBeLessThanOrEqual(Math.max(totalmem(), freemem()));
});
