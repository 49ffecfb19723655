// A worker's program: opens the small kernel of the kind that it is told, and runs steps until somebody ends it.
// Says "stepping" after the first.

import { parentPort, workerData } from "node:worker_threads";
import type { KernelKind } from "@readme-moe/kernel";
import { NUM_SMALL_PAGES, openSmall, resultsOf, SMALL_REQUEST } from "../kernel/small-model.ts";

const kernel = await openSmall({ kernel: workerData as KernelKind }, 3);
const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
for (let isFirst = true; ; isFirst = false) {
  kernel.step(pages, SMALL_REQUEST, resultsOf(1));
  if (isFirst) parentPort?.postMessage("stepping", []);
}
