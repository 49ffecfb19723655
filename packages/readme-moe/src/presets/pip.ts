import { spawn } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";

/** How pip is started, by preference; the first that is there is used. */
const COMMANDS: readonly (readonly [string, ...string[]])[] = [
  ["python3", "-m", "pip"],
  ["python", "-m", "pip"],
  ["pip"],
];
/** Of Windows' stand-ins for a Python that is not installed. */
const NOT_INSTALLED = 9009;
const MAX_ERROR_CHARACTERS = 4000;

interface Outcome {
  /** `undefined` when there is no such program. */
  readonly code: number | null | undefined;
  readonly errors: string;
}

/**
 * Downloads one wheel with pip, which uses its own settings: index, proxy, certificates. On a terminal pip shows its
 * progress on our standard error.
 *
 * @param folder - an empty folder; pip's temporary files go there, too
 * @returns the wheel's path
 * @throws {ReadMeError} `ERR_HUB_UNREACHABLE` when there is no pip, or with what it said
 */
export async function pipDownload(requirement: string, folder: string, signal?: AbortSignal): Promise<string> {
  const options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--dest", folder];
  for (const [program, ...args] of COMMANDS) {
    const { code, errors } = await run(program, [...args, "download", ...options, requirement], folder, signal);
    signal?.throwIfAborted();
    if (code === undefined || code === NOT_INSTALLED || /No module named '?pip\b/.test(errors)) continue;
    if (code !== 0) throw failed(`${[program, ...args].join(" ")} failed${lastLine(errors)}`);
    const wheel = (await readdir(folder)).find((name) => name.endsWith(".whl"));
    if (wheel === undefined) throw failed("pip succeeded, but left no wheel");
    return join(folder, wheel);
  }
  throw failed("there is no pip here (python3 -m pip, python -m pip, pip)");
}

function run(
  program: string,
  args: readonly string[],
  temporaryFolder: string,
  signal: AbortSignal | undefined,
): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      env: { ...process.env, TMPDIR: temporaryFolder },
      // Our standard output is for results.
      stdio: ["ignore", process.stderr.isTTY ? 2 : "ignore", "pipe"],
      ...(signal ? { signal } : {}),
    });
    let errors = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      errors = (errors + text).slice(-MAX_ERROR_CHARACTERS);
    });
    // A program that did not start never closes; one that is aborted closes later.
    child.on("error", () => {
      if (child.pid === undefined) resolve({ code: undefined, errors });
    });
    child.on("close", (code) => resolve({ code, errors }));
  });
}

function failed(message: string): ReadMeError {
  return new ReadMeError("ERR_HUB_UNREACHABLE", message);
}

/** Where pip says what it came to. */
function lastLine(errors: string): string {
  const line = errors.trim().split("\n").at(-1) ?? "";
  return line === "" ? "" : `: ${line}`;
}
