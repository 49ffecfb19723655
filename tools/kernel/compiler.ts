// Pinned compiler from Python's registry, installed on first use into the cache of `node_modules`.

import { existsSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { outcomeOf, run } from "../packages/run.ts";
import { CACHE } from "./places.ts";
import { COMPILER } from "./recipe.ts";

const PYTHON = process.platform === "win32" ? "python" : "python3";

/** Runs the compiler: the first argument is its command, such as `cc`. */
export type Compiler = (args: readonly string[], cwd: string) => Promise<string>;

/**
 * Installs the compiler unless it is installed.
 *
 * @throws {Error} when Python or pip is missing
 */
export async function openCompiler(): Promise<Compiler> {
  const folder = join(CACHE, `${COMPILER.name}-${COMPILER.version}`);
  if (!existsSync(folder)) await install(folder);
  const program = join(folder, COMPILER.name, process.platform === "win32" ? "zig.exe" : "zig");
  const objects = join(CACHE, "objects");
  const env = { ZIG_GLOBAL_CACHE_DIR: objects, ZIG_LOCAL_CACHE_DIR: objects };
  return (args, cwd) => run(program, args, { cwd, env });
}

async function install(folder: string): Promise<void> {
  const pip = await outcomeOf(PYTHON, ["-m", "pip", "--version"], { cwd: "." }).catch(() => undefined);
  if (pip?.code !== 0) throw new Error("Building the kernel needs Python 3 with pip");
  const fresh = `${folder}-${process.pid}`;
  await mkdir(fresh, { recursive: true });
  try {
    const requirements = join(fresh, "requirements.txt");
    const hashes = COMPILER.hashes.map((hash) => `--hash=sha256:${hash}`).join(" ");
    await writeFile(requirements, `${COMPILER.name}==${COMPILER.version} ${hashes}\n`);
    const options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
    const args = ["-m", "pip", "install", ...options, "--target", fresh, "--requirement", requirements];
    await run(PYTHON, args, { cwd: fresh });
    await rename(fresh, folder);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    throw error;
  }
}
