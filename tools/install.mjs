// Installs this repository's dependencies with the pinned pnpm. `--to-run` leaves out dependencies of tests and checks
// unless they are installed already. It is plain JavaScript, because nothing that runs TypeScript is installed yet.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");

const { packageManager } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
const toRun = process.argv.includes("--to-run") && !hasDevDependencies();
const { status, error } = spawnSync(
  "npx",
  [
    "--yes",
    packageManager,
    "install",
    "--frozen-lockfile",
    "--loglevel=error",
    // Without a terminal, the change from a smaller to a full installation cannot be confirmed.
    "--config.confirm-modules-purge=false",
    ...(toRun ? ["--prod"] : []),
  ],
  // Windows finds npx.cmd only through its shell.
  { cwd: ROOT, stdio: "inherit", shell: process.platform === "win32" },
);
if (error) console.error(`npx did not start: ${error.message}`);
process.exitCode = status ?? 1;

/** Reads whether the last installation had development dependencies, from pnpm's record. */
function hasDevDependencies() {
  try {
    return /"?devDependencies"?: true/.test(readFileSync(join(ROOT, "node_modules", ".modules.yaml"), "utf8"));
  } catch {
    return false;
  }
}
