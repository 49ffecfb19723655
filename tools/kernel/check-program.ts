// Builds the C program of `packages/kernel/native/check` with the kernel's sources and any compiler.

import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { inParallel } from "./compile.ts";
import { CACHE, CHECK, NATIVE } from "./places.ts";
import { C_FLAGS, SOURCES, type LoopsBuild } from "./recipe.ts";

/**
 * Flags of loops that need not be fast: without a function for each shape of tiles and type of blocks, sanitizers compile
 * them in a tenth of the time.
 */
export const SMALL: readonly string[] = ["-Dalways_inline=unused", "-Wno-pass-failed"];

export interface CheckProgram {
  /** Runs a C compiler in a folder. */
  readonly compile: (args: readonly string[], cwd: string) => Promise<unknown>;
  readonly flags: readonly string[];
  readonly loops: readonly LoopsBuild[];
}

/** Builds the program, calls `use` with its path, and removes it. */
export async function withCheckProgram<T>(program: CheckProgram, use: (path: string) => Promise<T>): Promise<T> {
  await mkdir(CACHE, { recursive: true });
  const folder = await mkdtemp(join(CACHE, "check-"));
  try {
    return await use(await build(program, folder));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function build({ compile, flags, loops }: CheckProgram, folder: string): Promise<string> {
  // Few pairs run together, and tiles are short, so that small steps run in several turns and over several tiles.
  const all = [...C_FLAGS, "-DMOST_PAIRS=24", "-DATTEND_TILE=32", ...flags, "-I.", "-Icheck"];
  const objects: string[] = [];
  const job = (source: string, name: string, more: readonly string[]) => {
    const object = join(folder, `${name}.o`);
    objects.push(object);
    return () => compile([...all, ...more, "-c", source, "-o", object], NATIVE);
  };
  // The program has its own memory, whose blocks have exact ends.
  const common = SOURCES.common.filter((name) => name !== "platform");
  const checks = (await readdir(CHECK)).filter((name) => name.endsWith(".c")).toSorted();
  await inParallel([
    ...loops.map((loop) => job(`${SOURCES.loops}.c`, loop.name, loop.flags)),
    ...common.map((name) => job(`${name}.c`, name, [])),
    ...checks.map((name) => job(join("check", name), `check-${name}`, [])),
  ]);
  const path = join(folder, "check");
  await compile([...flags, ...objects, "-o", path, "-lm", "-lpthread"], NATIVE);
  return path;
}
