// Debian packages that checks of the kernel and tests of a fleet need besides Node.

import { outcomeOf } from "../packages/run.ts";

/** A mirror may fail, and another process may hold the lock of apt, for a while. */
const OPTIONS = ["-qq", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120"];
const ATTEMPTS = 2;

/**
 * Installs packages in a run of CI, on its own machine. Prints why that failed.
 *
 * @returns whether they were installed
 */
export async function installPackages(packages: readonly string[]): Promise<boolean> {
  if (!process.env["CI"]) return false;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    // Lists that one mirror did not give may be there, and others suffice.
    const failures = [await failureOf(["update"])];
    failures.push(await failureOf(["install", "--yes", "--no-install-recommends", ...packages]));
    if (failures[1] === undefined) return true;
    for (const failure of failures) if (failure !== undefined) console.error(failure);
  }
  return false;
}

/** Runs apt-get. @returns what it says when it fails */
async function failureOf(args: readonly string[]): Promise<string | undefined> {
  const options = { cwd: ".", env: { DEBIAN_FRONTEND: "noninteractive" } };
  const outcome = await outcomeOf("apt-get", [...OPTIONS, ...args], options).catch((error: unknown) => String(error));
  if (typeof outcome === "string") return outcome;
  return outcome.code === 0 ? undefined : `apt-get ${args[0]} ended with ${outcome.code}\n${outcome.everything.trim()}`;
}
