// Threads of a kernel: as many as there are cores, they end with it, whoever ends it, and take no time while no step
// runs.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { KV_PRECISIONS, type KernelKind } from "@readme-moe/kernel";
import { describe, expect, test } from "vitest";
import { defaultThreads } from "../../packages/kernel/src/kernel-threads.ts";
import { NUM_SMALL_PAGES, openSmall, resultsOf, SMALL_REQUEST } from "../support/kernel/small-model.ts";
import { outcomeOf, startNode } from "../support/node-process.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "ending-kernel.ts");

const countThreads = (): number => readdirSync("/proc/self/task").length;

describe.each([
  { kind: "native", numKernels: 50 },
  { kind: "wasm", numKernels: 8 },
] as const)("$kind kernels", ({ kind, numKernels }) => {
  test.runIf(process.platform === "linux")("leave no threads when they are closed, used or not", async () => {
    const before = countThreads();
    for (let i = 0; i < numKernels; i++) {
      const kernel = await openSmall({ kernel: kind }, 4);
      const pages = kernel.openPages(NUM_SMALL_PAGES, KV_PRECISIONS[i % 3]!);
      if (i % 2 === 0) kernel.step(pages, SMALL_REQUEST, resultsOf(1));
      await kernel.close();
    }
    // The runtime may have started some of its own.
    expect(countThreads() - before).toBeLessThan(numKernels);
  });

  test("take no processor time between steps", async () => {
    const kernel = await openSmall({ kernel: kind }, 4);
    const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    // Workers need a while to start; their kernel is idle from the first step on.
    for (let i = 0; i < 20; i++) {
      kernel.step(pages, SMALL_REQUEST, resultsOf(1));
      await setTimeout(20);
    }
    const start = process.cpuUsage();
    const from = performance.now();
    await setTimeout(300);
    const { user, system } = process.cpuUsage(start);
    expect((user + system) / 1000).toBeLessThan(0.5 * (performance.now() - from));
    await kernel.close();
  });
});

describe.each<KernelKind>(["native", "wasm"])("a process with a %s kernel", (kind) => {
  test.each([
    ["that nobody closes ends by itself", "leave", ""],
    ["in a worker that is terminated ends by itself", "terminate", "ended\n"],
    ["that runs steps in a worker ends by process.exit", "exit", ""],
  ])("%s", async (_, end, stdout) => {
    const outcome = await outcomeOf(startNode([PROGRAM, kind, end]));
    expect(outcome).toEqual({ code: 0, signal: null, stdout, stderr: "" });
  });
});

/** Files of a system whose processors share cores as listed. */
function systemOf(cores: readonly string[], files: Readonly<Record<string, string>> = {}) {
  const topologies = cores.map((list, i) => [`/sys/devices/system/cpu/cpu${i}/topology/core_cpus_list`, `${list}\n`]);
  const all: Readonly<Record<string, string>> = {
    "/proc/self/status": `Name:\tnode\nCpus_allowed:\tff\nCpus_allowed_list:\t0-${cores.length - 1}\nMems_allowed_list:\t0\n`,
    "/sys/devices/system/cpu/online": `0-${cores.length - 1}\n`,
    "/proc/self/cgroup": "0::/\n",
    ...Object.fromEntries(topologies),
    ...files,
  };
  return (path: string): string | undefined => all[path];
}

const allowed = (list: string) => ({ "/proc/self/status": `Cpus_allowed:\t0\nCpus_allowed_list:\t${list}\n` });
const inGroup = (line: string, files: Readonly<Record<string, string>>) => ({
  "/proc/self/cgroup": `${line}\n`,
  ...Object.fromEntries(Object.entries(files).map(([path, text]) => [`/sys/fs/cgroup/${path}`, `${text}\n`])),
});

const FOUR_CORES = ["0", "1", "2", "3"];
const EIGHT_THREADS = ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"];
const ONE_CORE = ["0-1", "0-1"];
/** Two fast cores of two threads, four slow cores. */
const LAPTOP = ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"];
const SLICE = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope";

test.each([
  ["four cores", 4, 4, systemOf(FOUR_CORES)],
  ["four cores of two threads", 8, 4, systemOf(EIGHT_THREADS)],
  ["both threads of the only core", 2, 2, systemOf(ONE_CORE)],
  ["one thread of a core", 1, 1, systemOf(ONE_CORE, allowed("1"))],
  ["fast and slow cores", 8, 6, systemOf(LAPTOP)],
  ["the cores of an affinity mask", 3, 2, systemOf(EIGHT_THREADS, allowed("0,4,6"))],
  ["threads that a mask takes from different cores", 4, 4, systemOf(EIGHT_THREADS, allowed("0,5-7"))],
  [
    "online processors of a mask with more",
    3,
    3,
    systemOf(FOUR_CORES, { ...allowed("0-127"), "/sys/devices/system/cpu/online": "0-1,3\n" }),
  ],
  ["what the runtime says where nothing else does", 6, 6, () => undefined],
  ["what the runtime says where the mask is empty", 6, 6, systemOf(FOUR_CORES, allowed(""))],
  [
    "processors whose cores are unknown",
    4,
    4,
    systemOf([], { ...allowed("0-3"), "/sys/devices/system/cpu/online": "0-3\n" }),
  ],
  [
    "names of older systems",
    4,
    2,
    systemOf([], {
      ...allowed("0-3"),
      "/sys/devices/system/cpu/online": "0-3\n",
      ...Object.fromEntries(
        [0, 1, 2, 3].map((i) => [
          `/sys/devices/system/cpu/cpu${i}/topology/thread_siblings_list`,
          i < 2 ? "0-1\n" : "2-3\n",
        ]),
      ),
    }),
  ],
  ["a container's limit, rounded up", 4, 2, systemOf(FOUR_CORES, inGroup("0::/", { "cpu.max": "150000 100000" }))],
  ["at least one thread", 4, 1, systemOf(FOUR_CORES, inGroup("0::/", { "cpu.max": "1000 100000" }))],
  ["no limit of a group", 4, 4, systemOf(FOUR_CORES, inGroup("0::/", { "cpu.max": "max 100000" }))],
  [
    "the smallest limit above a group",
    4,
    2,
    systemOf(
      FOUR_CORES,
      inGroup(`0::${SLICE}`, {
        "kubepods.slice/cpu.max": "300000 100000",
        "kubepods.slice/kubepods-pod1.slice/cpu.max": "200000 100000",
        [`${SLICE.slice(1)}/cpu.max`]: "max 100000",
      }),
    ),
  ],
  [
    "a limit at the place of the root, which is the group's",
    4,
    1,
    systemOf(FOUR_CORES, inGroup(`0::${SLICE}`, { "cpu.max": "50000 100000" })),
  ],
  [
    "a group outside of the visible ones",
    4,
    3,
    systemOf(FOUR_CORES, inGroup("0::/../other", { "cpu.max": "300000 100000" })),
  ],
  [
    "limits of version 1",
    4,
    2,
    systemOf(
      FOUR_CORES,
      inGroup("5:memory:/docker/a\n4:cpu,cpuacct:/docker/a", {
        "cpu,cpuacct/docker/a/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/docker/cpu.cfs_quota_us": "120000",
        "cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
      }),
    ),
  ],
  [
    "a limit of version 1 that a container sees at the root",
    4,
    1,
    systemOf(
      FOUR_CORES,
      inGroup("4:cpu,cpuacct:/docker/a\n0::/docker/a", {
        "cpu/cpu.cfs_quota_us": "100000",
        "cpu/cpu.cfs_period_us": "100000",
      }),
    ),
  ],
  ["no limit where its file is damaged", 4, 4, systemOf(FOUR_CORES, inGroup("0::/", { "cpu.max": "" }))],
])("the default is %s: of %i processors %i threads", (_, numProcessors, numThreads, read) => {
  expect(defaultThreads(numProcessors, read)).toBe(numThreads);
});
