// `npm run build:kernel`: builds the kernel's binaries; with `--check` only compares the committed binaries with a
// build, and with `--check some` with a build of one for each compiler back end.

import { readFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildAll } from "./compile.ts";
import { openCompiler } from "./compiler.ts";
import { differences, DIGESTS, digestsOf } from "./digests.ts";
import { PREBUILT } from "./places.ts";
import { TARGETS, type Target } from "./recipe.ts";

async function build(): Promise<void> {
  await buildAll(await openCompiler(), PREBUILT);
  await writeFile(DIGESTS, digestsOf(PREBUILT));
  console.log(`built ${TARGETS.length} binaries of the kernel`);
}

/** Outputs whose builds are compared in a quick check; the others have the same code in other object formats. */
const SOME = ["linux-x64/kernel.node", "linux-arm64/kernel.node", "kernel.wasm"];

async function check(targets: readonly Target[]): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-prebuilt-"));
  try {
    await buildAll(await openCompiler(), folder, targets);
    const kept = await readFile(DIGESTS, "utf8");
    // The list names sources and binaries that were built together.
    const listed = differences(kept, digestsOf(PREBUILT));
    const changed = [...listed, ...differences(digestsOf(PREBUILT, targets), digestsOf(folder, targets))];
    for (const path of new Set(changed)) console.log(`${path} differs from a build of the kernel's sources`);
    if (changed.length > 0) throw new Error("Run npm run build:kernel and commit its binaries");
    console.log(
      `${targets.length} of the kernel's ${TARGETS.length} binaries match a build, all match their sources' digests`,
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

try {
  const [what, which] = process.argv.slice(2);
  const targets = which === "some" ? TARGETS.filter(({ output }) => SOME.includes(output)) : TARGETS;
  await (what === "--check" ? check(targets) : build());
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
