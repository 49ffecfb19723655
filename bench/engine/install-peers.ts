import { spawn } from "node:child_process";
import { stat } from "node:fs/promises";
import { join } from "node:path";

// Install scripts are not needed: they download parts for graphics cards, or compile. Optional packages are mostly
// binaries for other platforms; those for Linux on x64 are named in package.json.
const INSTALL = ["ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"];

/** Installs the peers of `bench/peers/package-lock.json` unless this list of them is installed. */
export async function installPeers(folder: string, say: (what: string) => void): Promise<void> {
  const [wanted, installed] = await Promise.all([
    stat(join(folder, "package-lock.json")),
    stat(join(folder, "node_modules", ".package-lock.json")).catch(() => undefined),
  ]);
  if (installed && installed.mtimeMs >= wanted.mtimeMs) return;
  say("installing the peers, once");
  await new Promise<void>((resolve, reject) => {
    // Standard output is reserved for results.
    const npm = spawn("npm", INSTALL, { cwd: folder, stdio: ["ignore", 2, "inherit"] });
    npm.once("error", reject);
    npm.once("exit", (code) => {
      if (code === 0) resolve();
      else reject(new Error(`npm could not install the peers (exit code ${code})`));
    });
  });
}
