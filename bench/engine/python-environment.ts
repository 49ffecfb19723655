// Creates a virtual environment of Python on first use. Python is not part of this project, and may be missing.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runQuietly } from "./run-quietly.ts";

export interface PythonEnvironment {
  /** File of pinned packages for pip. */
  readonly requirements: string;
  /** Folder of the environment. */
  readonly folder: string;
  /** @default "python3" */
  readonly python?: string;
  readonly say: (what: string) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Installs packages into their own environment unless this list of them is installed.
 *
 * @returns the folder of the environment's programs
 * @throws {Error} without Python, or when pip fails
 */
export async function pythonEnvironment(options: PythonEnvironment): Promise<string> {
  const { requirements, folder, python = "python3", say, signal } = options;
  const programs = join(folder, process.platform === "win32" ? "Scripts" : "bin");
  // Written last, so that an environment with it is complete.
  const installed = join(folder, "installed.txt");
  const wanted = await readFile(requirements, "utf8");
  if ((await readFile(installed, "utf8").catch(() => "")) === wanted) return programs;
  say("installing OpenVINO for Python, once; this takes minutes");
  await runQuietly(python, ["-m", "venv", "--clear", folder], { signal });
  const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", requirements];
  await runQuietly(join(programs, "python"), pip, { signal });
  await writeFile(installed, wanted);
  return programs;
}

/** Parses a list of pinned packages to versions by name. */
export function pinnedPackages(requirements: string): Readonly<Record<string, string>> {
  const pins = requirements.matchAll(/^([\w.-]+)==(\S+)$/gm);
  return Object.fromEntries(Array.from(pins, ([, name = "", version = ""]) => [name, version]));
}
