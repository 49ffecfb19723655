// Packs all packages, and has npm install them in an empty folder outside of the repository.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { packAll } from "../../tools/packages/pack.ts";
import { run } from "../../tools/packages/run.ts";
import { ROOT } from "../../tools/packages/workspace.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The folder that the packages are installed in. */
    readonly consumer: string;
  }
}

/** Of our own dependencies, what a program beside ours needs: the adapter's host, Express, and compilers. */
const BESIDE = ["@huggingface/transformers", "express", "@types/node", "typescript", "typescript-api"] as const;

/** @returns removes it */
export default async function install(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-consumer-"));
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    const tarballs = (await packAll(folder)).map(({ tarball }) => tarball);
    const { dependencies, devDependencies } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8")) as {
      readonly dependencies: Readonly<Record<string, string>>;
      readonly devDependencies: Readonly<Record<string, string>>;
    };
    const beside = Object.fromEntries(BESIDE.map((name) => [name, dependencies[name] ?? devDependencies[name]]));
    await writeFile(join(folder, "package.json"), JSON.stringify({ private: true, devDependencies: beside }));
    // The runtime's GPU libraries, which it would fetch from elsewhere.
    const env = { ONNXRUNTIME_NODE_INSTALL: "skip" };
    await run("npm", ["install", "--no-audit", "--no-fund", ...tarballs], { cwd: folder, env });
  } catch (error) {
    await remove();
    throw error;
  }
  project.provide("consumer", folder);
  return remove;
}
