// `npm run build:kernel`: builds the kernel's binaries; with `--check` only compares the committed binaries with a
// build.

import { readFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildAll } from "./compile.ts";
import { openCompiler } from "./compiler.ts";
import { differences, DIGESTS, digestsOf } from "./digests.ts";
import { PREBUILT } from "./places.ts";
import { TARGETS } from "./recipe.ts";

async function build(): Promise<void> {
  await buildAll(await openCompiler(), PREBUILT);
  await writeFile(DIGESTS, digestsOf(PREBUILT));
  console.log(`built ${TARGETS.length} binaries of the kernel`);
}

async function check(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-prebuilt-"));
  try {
    await buildAll(await openCompiler(), folder);
    const built = digestsOf(folder);
    const kept = await readFile(DIGESTS, "utf8");
    const changed = [...new Set([...differences(kept, built), ...differences(digestsOf(PREBUILT), built)])];
    for (const path of changed) console.log(`${path} differs from a build of the kernel's sources`);
    if (changed.length > 0) throw new Error("Run npm run build:kernel and commit its binaries");
    console.log(`the kernel's ${TARGETS.length} binaries match its sources`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

try {
  await (process.argv.includes("--check") ? check() : build());
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
