// The command line as a user calls it: another process, its output, its exit code.

import { execFile, fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const ROOT = join(import.meta.dirname, "..", "..");
const PACKAGE = join(ROOT, "packages", "readme-moe");

/** Whether processes take the packages as they were just built (`npm test`): they start in half the time, and run what is published. */
const IS_BUILT = process.env["README_MOE_TEST_BUILT"] === "1";

/** What Node needs for packages to be found: nothing for those that are built, else their sources. */
export const NODE_FLAGS: readonly string[] = IS_BUILT ? [] : ["--conditions=@readme-moe/source", "--import", "tsx"];

/** Returns the URL of a module in `packages`, such as `model/src/files.ts`, that such a process imports. */
export function moduleUrl(path: string): string {
  const built = path.replace("/src/", "/dist/").replace(/\.ts$/, ".js");
  return pathToFileURL(join(ROOT, "packages", IS_BUILT ? built : path)).href;
}

/** What comes before a program of TypeScript. */
export const NODE_ARGUMENTS: readonly string[] = IS_BUILT
  ? [join(import.meta.dirname, "programs", "launch.js")]
  : NODE_FLAGS;

/** What comes before the command line's arguments. */
export const COMMAND_LINE: readonly string[] = IS_BUILT
  ? [join(PACKAGE, "dist", "main.js")]
  : [...NODE_FLAGS, join(PACKAGE, "src", "main.ts")];

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a command in a process that has run others before, unless it reads lines or another command runs there.
 *
 * @param input - lines on standard input
 */
export function runCli(args: readonly string[], input = ""): Promise<Outcome> {
  return input === "" && !host.isBusy ? host.run(args) : runCliAlone(args, input);
}

/** Runs a command in a process of its own. */
function runCliAlone(args: readonly string[], input = ""): Promise<Outcome> {
  const node = [...COMMAND_LINE, ...args];
  return new Promise((resolve) => {
    const child = execFile(process.execPath, node, { cwd: ROOT, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : error ? -1 : 0, stdout, stderr });
    });
    child.stdin?.end(input);
  });
}

type Told = { readonly name: "stdout" | "stderr"; readonly text: string } | { readonly code: number };

/** A process for commands, which is started by the first one, and again after one that ended it. */
class CommandLineHost {
  isBusy = false;
  #child: ChildProcess | undefined;

  async run(args: readonly string[]): Promise<Outcome> {
    this.isBusy = true;
    try {
      this.#child ??= await startHost();
      return await outcomeIn(this.#child, args);
    } finally {
      if (this.#child?.connected !== true) this.#child = undefined;
      this.isBusy = false;
    }
  }
}

const host = new CommandLineHost();

async function startHost(): Promise<ChildProcess> {
  const main = COMMAND_LINE.at(-1)?.replace(/main\.(js|ts)$/, "cli.$1") ?? "";
  const program = join(import.meta.dirname, "programs", "command-line-host.mjs");
  const child = fork(program, [main], {
    cwd: ROOT,
    execArgv: [...NODE_FLAGS],
    stdio: ["ignore", "pipe", "pipe", "ipc"],
  });
  await once(child, "message");
  return child;
}

function outcomeIn(child: ChildProcess, args: readonly string[]): Promise<Outcome> {
  const told = { stdout: "", stderr: "" };
  return new Promise((resolve) => {
    const onMessage = (one: Told): unknown => ("code" in one ? end(one.code) : (told[one.name] += one.text));
    const onClose = (code: number | null): void => end(code ?? -1);
    const end = (code: number): void => {
      child.stderr?.removeAllListeners("data");
      child.off("message", onMessage).off("close", onClose);
      resolve({ code, ...told });
    };
    // Warnings of Node and output of the command's children do not come as messages.
    child.stderr?.on("data", (text: Buffer) => (told.stderr += text.toString()));
    child.on("message", onMessage).on("close", onClose);
    child.send({ args, env: process.env });
  });
}
