// A virtual environment of Python, made on first use. Python is no part of this project, so that a machine may have none.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runQuietly } from "./run-quietly.ts";

export interface PythonEnvironment {
  /** List of pinned packages, as pip reads them. */
  readonly requirements: string;
  /** Where the environment is, or will be. */
  readonly folder: string;
  /** @default "python3" */
  readonly python?: string;
  readonly say: (what: string) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Installs packages into an environment of their own where they are not installed, or another list of them is.
 * @returns the folder of its programs
 * @throws {Error} where there is no Python, or pip fails
 */
export async function pythonEnvironment(options: PythonEnvironment): Promise<string> {
  const { requirements, folder, python = "python3", say, signal } = options;
  const programs = join(folder, process.platform === "win32" ? "Scripts" : "bin");
  // Written last, so that an environment that has it is whole.
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

/** Versions in a list of pinned packages, by their names. */
export function pinnedPackages(requirements: string): Readonly<Record<string, string>> {
  const pins = requirements.matchAll(/^([\w.-]+)==(\S+)$/gm);
  return Object.fromEntries(Array.from(pins, ([, name = "", version = ""]) => [name, version]));
}
