// Installs a folder's own package-lock.json on first use: programs that neither `npm start` nor `npm test` needs.

import { spawn } from "node:child_process";
import { stat } from "node:fs/promises";
import { join } from "node:path";

// Install scripts download parts for graphics cards, or compile; nothing here needs them.
const INSTALL = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];

export interface LockedInstall {
  /** Name of the installed packages, for the message. */
  readonly what: string;
  readonly say: (text: string) => void;
  /** Whether to leave out optional packages, mostly binaries of other platforms. @default false */
  readonly withoutOptional?: boolean;
}

/**
 * Installs the packages of `folder`'s lockfile unless this list of them is installed.
 *
 * @throws {Error} if npm fails, whose messages are on standard error
 */
export async function installLocked(folder: string, { what, say, withoutOptional }: LockedInstall): Promise<void> {
  const [wanted, installed] = await Promise.all([
    stat(join(folder, "package-lock.json")),
    stat(join(folder, "node_modules", ".package-lock.json")).catch(() => undefined),
  ]);
  if (installed && installed.mtimeMs >= wanted.mtimeMs) return;
  say(`installing ${what}, once`);
  const args = [...INSTALL, ...(withoutOptional ? ["--omit=optional"] : [])];
  await new Promise<void>((resolve, reject) => {
    // Standard output is reserved for results. Windows finds npm.cmd only through its shell.
    const npm = spawn("npm", args, {
      cwd: folder,
      stdio: ["ignore", 2, "inherit"],
      shell: process.platform === "win32",
    });
    npm.once("error", reject);
    npm.once("exit", (code) => {
      if (code === 0) resolve();
      else reject(new Error(`npm could not install ${what} (exit code ${code})`));
    });
  });
}
