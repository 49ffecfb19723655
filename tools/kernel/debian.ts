// Debian packages that checks of the kernel need besides Node.

import { outcomeOf } from "../packages/run.ts";

/**
 * Installs packages in a run of CI, on its own machine.
 *
 * @returns whether they were installed
 */
export async function installPackages(packages: readonly string[]): Promise<boolean> {
  if (!process.env["CI"]) return false;
  const options = { cwd: ".", env: { DEBIAN_FRONTEND: "noninteractive" } };
  for (const args of [
    ["update", "-qq"],
    ["install", "-qq", "--yes", "--no-install-recommends", ...packages],
  ]) {
    const outcome = await outcomeOf("apt-get", args, options).catch(() => undefined);
    if (outcome?.code !== 0) return false;
  }
  return true;
}
