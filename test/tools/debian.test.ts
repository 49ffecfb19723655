// Packages that a run of CI installs: what becomes of them where apt-get fails.

import { chmod, readFile, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { installPackages } from "../../tools/kernel/debian.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

/** Puts a program in place of apt-get. @returns reads its calls */
async function replaceApt(script: string): Promise<() => Promise<readonly string[]>> {
  const folder = await temporaryFolder();
  const [program, calls] = [join(folder, "apt-get"), join(folder, "calls")];
  const note = `for one; do case "$one" in update|install) echo "$one" >> ${calls};; esac; done`;
  await writeFile(program, `#!/bin/sh\n${note}\n${script}\n`);
  await chmod(program, 0o755);
  vi.stubEnv("PATH", `${folder}${delimiter}${process.env["PATH"]}`);
  return async () => (await readFile(calls, "utf8")).trim().split("\n");
}

const [ONCE, TWICE] = [
  ["update", "install"],
  ["update", "install", "update", "install"],
];

test.skipIf(process.platform === "win32").each([
  ["all goes well", "exit 0", true, ONCE],
  ["a mirror is away", 'case "$*" in *update*) exit 100;; esac', true, ONCE],
  ["it works the second time", 'test "$(grep -c install "$(dirname "$0")/calls")" = 2', true, TWICE],
  ["it never works", "echo 'E: no such package' >&2; exit 100", false, TWICE],
])("packages are installed or not where %s", async (_, script, isInstalled, expected) => {
  const said = vi.spyOn(console, "error").mockReturnValue();
  vi.stubEnv("CI", "true");
  const calls = await replaceApt(script);
  expect(await installPackages(["one"])).toBe(isInstalled);
  expect(await calls()).toStrictEqual(expected);
  const text = said.mock.calls.flat().join("\n");
  expect(text.includes("apt-get install ended with 100\nE: no such package")).toBe(!isInstalled);
});

test("nothing is installed outside of CI", async () => {
  vi.stubEnv("CI", "");
  expect(await installPackages(["one"])).toBe(false);
});
