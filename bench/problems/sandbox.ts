// Runs a program that a model wrote: a child with limits, without environment, files and network, whose verdict counts
// only if it has a secret that the program never saw.

import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { accessSync, chownSync, constants } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import type { Language } from "./problems.ts";

/** Limits of a program. */
export interface Limits {
  readonly wallMs: number;
  readonly cpuSeconds: number;
  readonly memoryBytes: number;
}

/** A program and its tests, in the language that runs: TypeScript has been stripped to JavaScript. */
export interface Job {
  readonly code: string;
  /** Each test's statements before its two expressions, of which `expected` may be `raises NAME`. */
  readonly tests: readonly { readonly before: string; readonly actual: string; readonly expected: string }[];
}

/** Result of a run. `why` is the first test that failed, or how the program ended. */
export interface Verdict {
  readonly isSolved: boolean;
  readonly why?: string;
}

const LIMITS: Limits = { wallMs: 30_000, cpuSeconds: 10, memoryBytes: 2 ** 30 };
const VERDICT_BYTES = 4096;
/** First of the user ids that no account has; each run takes the next one, so that processes are counted apart. */
const FIRST_USER = 61_184;
const NUM_USERS = 4000;
/** Stays the first process of its namespace, under the caller's user: the program cannot leave it, and ends with it. */
const KEEPER = ["sh", "-c", '"$@"; exit $?', "sh"];
const NAMESPACES = ["unshare", "--net", "--pid", "--fork", "--kill-child"];
let numRuns = 0;

/** Wraps a command. @param user - user id to run it under */
type Wrap = (command: readonly string[], user: number) => readonly string[];

const asUser = (user: number): readonly string[] =>
  `setpriv --reuid ${user} --regid ${user} --clear-groups --no-new-privs`.split(" ");

/** Ways to keep a program apart, the strictest first. The last one works everywhere and only has a process group. */
const WRAPS: readonly Wrap[] = [
  (command, user) => [...NAMESPACES, ...KEEPER, ...asUser(user), ...command],
  (command) => [NAMESPACES[0] ?? "", "--user", "--map-root-user", ...NAMESPACES.slice(1), ...KEEPER, ...command],
  (command) => command,
];

const runs = ([program = "", ...args]: readonly string[]): boolean =>
  spawnSync(program, args, { stdio: "ignore", timeout: 10_000, cwd: tmpdir() }).status === 0;

const wrap = WRAPS.find((one) => runs(one(["true"], FIRST_USER))) ?? ((command: readonly string[]) => command);
const hasPrlimit = runs(["prlimit", "--nproc=64", "true"]);

/** Whether programs run without network and as the first processes of their own namespace. */
export const isIsolated: boolean = wrap !== WRAPS.at(-1);

/** Programs that run the languages, and the arguments before their runner's text. */
const RUNNERS: Readonly<Record<Language, { program: string | undefined; args: string[]; file: string }>> = {
  python: { program: findProgram("python3"), args: ["-s", "-S", "-B", "-c"], file: "run.py" },
  typescript: {
    program: process.execPath,
    args: ["--max-old-space-size=512", "--disable-warning=ExperimentalWarning", "-e"],
    file: "run.js",
  },
};

/** Whether a language's programs can run on this machine. */
export function canRun(language: Language): boolean {
  return RUNNERS[language].program !== undefined;
}

/**
 * Runs a program and its tests. Whatever the program does, the promise resolves within the limits, and the program is
 * solved only if all tests were seen to pass.
 */
export async function runJob(language: Language, job: Job, limits: Limits = LIMITS): Promise<Verdict> {
  const { program, args, file } = RUNNERS[language];
  if (program === undefined) throw new TypeError(`Expected a program that runs ${language} on this machine`);
  const runner = await readFile(join(import.meta.dirname, file), "utf8");
  const user = FIRST_USER + (numRuns++ % NUM_USERS);
  const folder = await mkdtemp(join(tmpdir(), "problem-"));
  try {
    if (wrap === WRAPS[0]) chownSync(folder, user, user);
    const inner = ["env", "-i", "PYTHONHASHSEED=0", program, ...args, runner];
    const secret = randomBytes(16).toString("hex");
    const ended = await runChild([...limitsOf(limits), ...wrap(inner, user)], {
      folder,
      input: JSON.stringify({ ...job, secret }),
      wallMs: limits.wallMs,
    });
    return typeof ended === "string" ? { isSolved: false, why: ended } : verdictOf(ended.written, secret, job);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Judges what the runner wrote. Anything but one whole verdict with the secret is a failure. */
function verdictOf(written: string, secret: string, { tests }: Job): Verdict {
  const solved = JSON.stringify({ secret, passed: tests.length });
  if (tests.length > 0 && written === solved) return { isSolved: true };
  try {
    const { why } = JSON.parse(written) as { readonly why?: unknown };
    if (typeof why === "string") return { isSolved: false, why };
  } catch {
    // Told below.
  }
  return { isSolved: false, why: "ended before the tests did" };
}

/** Returns the command that limits what follows it. */
function limitsOf({ cpuSeconds, memoryBytes }: Limits): readonly string[] {
  if (hasPrlimit) {
    const command = `prlimit --cpu=${cpuSeconds} --fsize=1048576 --core=0 --data=${memoryBytes} --nproc=64 --nofile=256`;
    return command.split(" ");
  }
  const script = `ulimit -t ${cpuSeconds}; ulimit -f 2048; ulimit -c 0; ulimit -d ${memoryBytes / 1024} || true; exec "$@"`;
  return ["sh", "-c", script, "sh"];
}

interface Child {
  readonly folder: string;
  readonly input: string;
  readonly wallMs: number;
}

/** Runs a command in its own process group. Returns what it wrote to its fourth file, or why it has no verdict. */
function runChild(
  [program = "", ...args]: readonly string[],
  { folder, input, wallMs }: Child,
): Promise<{ readonly written: string } | string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: folder,
      env: { PATH: process.env["PATH"] ?? "" },
      stdio: ["pipe", "ignore", "ignore", "pipe"],
      detached: true,
    });
    let written = "";
    let why: string | undefined;
    const kill = (reason?: string): void => {
      why ??= reason;
      try {
        if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      } catch {
        // The group has ended.
      }
    };
    const timer = setTimeout(() => kill(`took more than ${wallMs} ms`), wallMs);
    const verdict = child.stdio[3] as NodeJS.ReadableStream;
    verdict.setEncoding("utf8").on("data", (text: string) => {
      written += text;
      if (written.length > VERDICT_BYTES) kill("wrote a flood");
    });
    // A program may end before it has read its tests.
    child.stdin?.on("error", () => undefined).end(input);
    child.once("error", reject);
    child.once("exit", () => {
      kill();
      clearTimeout(timer);
      // A process that left the group may keep the pipe open.
      const finish = (): void => {
        (verdict as unknown as { destroy: () => void }).destroy();
        resolve(why ?? { written });
      };
      if ((verdict as unknown as { readableEnded: boolean }).readableEnded) finish();
      else {
        const late = setTimeout(finish, 1000);
        verdict.once("end", () => {
          clearTimeout(late);
          finish();
        });
      }
    });
  });
}

/** Returns the first program of a name that runs under the wrap: some are below folders that only their owner reads. */
function findProgram(name: string): string | undefined {
  const paths = (process.env["PATH"] ?? "").split(delimiter).map((folder) => join(folder, name));
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
    } catch {
      return false;
    }
    return runs(wrap(["env", "-i", path, "-S", "-c", "import asyncio"], FIRST_USER));
  });
}
