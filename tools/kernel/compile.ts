// Compiles and links the binaries of the recipe, with one job for each processor.

import { copyFile, chmod, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Compiler } from "./compiler.ts";
import { NATIVE } from "./places.ts";
import { C_FLAGS, SOURCES, TARGETS, type LoopsBuild, type Target } from "./recipe.ts";
import { checkStores } from "./stores.ts";

const NODE_API = dirname(fileURLToPath(import.meta.resolve("node-api-headers/package.json")));

/** The compiler adds `-c` to `-S`. */
const UNUSED_FLAGS = "-Wno-unused-command-line-argument";

type Job = () => Promise<unknown>;

/** Runs jobs, at most `most` at a time; starts none after a failure. */
export async function inParallel(jobs: readonly Job[], most: number = availableParallelism()): Promise<void> {
  const waiting = jobs.values();
  const worker = async (): Promise<void> => {
    for (const job of waiting) await job();
  };
  await Promise.all(Array.from({ length: most }, worker));
}

/** Builds binaries into `folder`. */
export async function buildAll(
  compiler: Compiler,
  folder: string,
  targets: readonly Target[] = TARGETS,
): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), "readme-moe-kernel-"));
  try {
    const places = targets.map((target, i) => ({ target, work: join(work, String(i)) }));
    for (const place of places) await mkdir(place.work);
    await inParallel(places.flatMap((place) => compilations(compiler, place.target, place.work)));
    await inParallel(places.map((place) => () => link(compiler, place.target, place.work, folder)));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Names of a target's objects in link order. */
function objectsOf({ loops, sources }: Target): readonly string[] {
  return [...loops.map(({ name }) => name), ...sources].map((name) => `${name}.o`);
}

// Sources are named without a folder and outputs have no debug information, so binaries contain no paths.
function compilations(compiler: Compiler, target: Target, work: string): readonly Job[] {
  const flags = [
    "cc",
    "-O3",
    ...C_FLAGS,
    "-Werror",
    ...target.machine,
    ...target.compile,
    "-I",
    join(NODE_API, "include"),
    "-c",
  ];
  const compile = (source: string, name: string, more: readonly string[]): Job => {
    return () => compiler([...flags, ...more, `${source}.c`, "-o", join(work, `${name}.o`)], NATIVE);
  };
  // The loops of all systems are the same; those for Linux are checked on the way, as assembly.
  const compileLoops = (loops: LoopsBuild): Job => {
    const more = [...loops.flags, "-g0"];
    if (!target.output.startsWith("linux-")) return compile(SOURCES.loops, loops.name, more);
    const assembly = join(work, `${loops.name}.s`);
    const assemble = ["cc", ...target.machine, ...loops.flags, "-c", assembly, "-o", join(work, `${loops.name}.o`)];
    return async () => {
      await compiler([...flags, ...more, "-S", `${SOURCES.loops}.c`, "-o", assembly, UNUSED_FLAGS], NATIVE);
      checkStores(loops, await readFile(assembly, "latin1"));
      await compiler(assemble, work);
    };
  };
  return [...target.loops.map(compileLoops), ...target.sources.map((name) => compile(name, name, []))];
}

async function link(compiler: Compiler, target: Target, work: string, folder: string): Promise<void> {
  const libraries = target.hasImportLibrary ? await importLibraries(compiler, work) : [];
  const name = target.output.split("/").at(-1) as string;
  const flags = [...target.machine, ...target.link, "-s"];
  await compiler(["cc", ...flags, "-o", name, ...objectsOf(target), ...libraries], work);
  const output = join(folder, target.output);
  await mkdir(dirname(output), { recursive: true });
  await copyFile(join(work, name), output);
  await chmod(output, 0o644);
}

/** Import libraries of the functions in Node's program. */
async function importLibraries(compiler: Compiler, work: string): Promise<readonly string[]> {
  const names = ["js_native_api", "node_api"];
  for (const name of names) {
    const definition = join(NODE_API, "def", `${name}.def`);
    await compiler(["dlltool", "-m", "i386:x86-64", "-d", definition, "-l", `${name}.lib`], work);
  }
  return names.map((name) => `${name}.lib`);
}
