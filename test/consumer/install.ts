// Packs all packages, and has npm install them in an empty folder outside of the repository, and the command line alone in
// another one.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { packAll } from "../../tools/packages/pack.ts";
import { run } from "../../tools/packages/run.ts";
import { closureOf, ROOT } from "../../tools/packages/workspace.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The folder that the packages are installed in. */
    readonly consumer: string;
    /** The folder that the command line is installed in, without the lab. */
    readonly runtime: string;
  }
}

/** Of our own dependencies, what a program beside ours needs: the adapter's host, Express, and compilers. */
const BESIDE = ["@huggingface/transformers", "express", "@types/node", "typescript", "typescript-api"] as const;

/** @returns removes it */
export default async function install(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-consumer-"));
  const runtime = await mkdtemp(join(tmpdir(), "readme-moe-runtime-"));
  const remove = async (): Promise<void> => {
    for (const path of [folder, runtime]) await rm(path, { recursive: true, force: true });
  };
  try {
    const packed = await packAll(folder);
    const tarballs = packed.map(({ tarball }) => tarball);
    const { dependencies, devDependencies } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8")) as {
      readonly dependencies: Readonly<Record<string, string>>;
      readonly devDependencies: Readonly<Record<string, string>>;
    };
    const beside = Object.fromEntries(BESIDE.map((name) => [name, dependencies[name] ?? devDependencies[name]]));
    await writeFile(join(folder, "package.json"), JSON.stringify({ private: true, devDependencies: beside }));
    // The runtime's GPU libraries, which it would fetch from elsewhere.
    const env = { ONNXRUNTIME_NODE_INSTALL: "skip" };
    await run("npm", ["install", "--no-audit", "--no-fund", ...tarballs], { cwd: folder, env });
    const names = closureOf("readme-moe", packed);
    const own = packed.filter(({ manifest }) => names.includes(manifest.name)).map(({ tarball }) => tarball);
    await writeFile(join(runtime, "package.json"), JSON.stringify({ private: true }));
    await run("npm", ["install", "--no-audit", "--no-fund", ...own], { cwd: runtime });
  } catch (error) {
    await remove();
    throw error;
  }
  project.provide("consumer", folder);
  project.provide("runtime", runtime);
  return remove;
}
