// Threads of a kernel: they end with it, whoever ends it, and take no time while no step runs.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import type { KernelKind } from "@readme-moe/kernel";
import { describe, expect, test } from "vitest";
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
      const pages = kernel.openPages(NUM_SMALL_PAGES, i % 3 === 0);
      if (i % 2 === 0) kernel.step(pages, SMALL_REQUEST, resultsOf(1));
      await kernel.close();
    }
    // The runtime may have started some of its own.
    expect(countThreads() - before).toBeLessThan(numKernels);
  });

  test("take no processor time between steps", async () => {
    const kernel = await openSmall({ kernel: kind }, 4);
    const pages = kernel.openPages(NUM_SMALL_PAGES, true);
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
