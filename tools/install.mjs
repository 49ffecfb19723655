// Installs this repository's dependencies with the pinned pnpm. `--to-run` leaves out what only tests and checks need, unless that is
// installed already. Plain JavaScript, because nothing that reads TypeScript is there yet.

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
    // Without a terminal nobody can confirm that a smaller installation becomes a whole one.
    "--config.confirm-modules-purge=false",
    ...(toRun ? ["--prod"] : []),
  ],
  // Windows finds npx.cmd through its shell alone.
  { cwd: ROOT, stdio: "inherit", shell: process.platform === "win32" },
);
if (error) console.error(`npx did not start: ${error.message}`);
process.exitCode = status ?? 1;

/** Whether pnpm's note on the last installation says so. */
function hasDevDependencies() {
  try {
    return /"?devDependencies"?: true/.test(readFileSync(join(ROOT, "node_modules", ".modules.yaml"), "utf8"));
  } catch {
    return false;
  }
}
