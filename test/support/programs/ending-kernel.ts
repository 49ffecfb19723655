// A process that ends while a kernel is there.
//
//   ending-kernel.ts <native|wasm> leave       with an open kernel that nobody closes
//   ending-kernel.ts <native|wasm> terminate   behind a worker that was ended between its steps, and prints "ended"
//   ending-kernel.ts <native|wasm> exit        by `process.exit` while a worker runs steps

import { once } from "node:events";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import type { KernelKind } from "@readme-moe/kernel";
import { NUM_SMALL_PAGES, openSmall, resultsOf, SMALL_REQUEST } from "../kernel/small-model.ts";

const [kind, end] = process.argv.slice(2) as [KernelKind, string];

if (end === "leave") {
  const kernel = await openSmall({ kernel: kind }, 3);
  kernel.step(kernel.openPages(NUM_SMALL_PAGES, "fp16"), SMALL_REQUEST, resultsOf(1));
} else {
  const program = join(import.meta.dirname, "endless-steps.ts");
  const worker = new Worker(join(import.meta.dirname, "launch.js"), { argv: [program], workerData: kind });
  await once(worker, "message");
  if (end === "exit") process.exit();
  await worker.terminate();
  console.log("ended");
}
