// The system's Chromium, for tests that need a browser.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { chromium, type Browser } from "playwright-core";

const PATHS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const INSTALL = `
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=120 -qq update
  apt-get -o DPkg::Lock::Timeout=120 -qq install --yes --no-install-recommends chromium`;

/** Where it is; installed where that is possible. `undefined` where there is none and none can be had. */
export async function findChromium(): Promise<string | undefined> {
  const given = process.env["README_MOE_CHROMIUM"];
  const found = (): string | undefined => [given, ...PATHS].find((path) => path !== undefined && existsSync(path));
  const path = found();
  if (path !== undefined) return path;
  try {
    await promisify(execFile)("sh", ["-ec", INSTALL], { timeout: 240_000 });
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split("\n").at(-2) ?? error.message) : String(error);
    console.warn(`Browser tests are skipped: there is no Chromium, and none could be installed (${reason})`);
  }
  return found();
}

export function launchChromium(executablePath: string): Promise<Browser> {
  // As root it has no sandbox; pages are our own.
  return chromium.launch({ executablePath, chromiumSandbox: false, args: ["--disable-dev-shm-usage"] });
}
