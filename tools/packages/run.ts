import { spawn } from "node:child_process";
import { once } from "node:events";

export interface RunOptions {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Time after which the program is killed. @default no limit */
  readonly timeoutMs?: number | undefined;
}

export interface Outcome {
  readonly code: number | null;
  /** Standard output. */
  readonly output: string;
  /** Standard output and standard error, interleaved. */
  readonly everything: string;
}

// npm and npx are batch files on Windows, which only a shell can start.
const NEEDS_SHELL = process.platform === "win32";

/** Runs a program to its end, successful or not. */
export async function outcomeOf(
  program: string,
  args: readonly string[],
  { cwd, env, timeoutMs }: RunOptions,
): Promise<Outcome> {
  const isBatch = NEEDS_SHELL && program !== process.execPath;
  const child = spawn(program, isBatch ? args.map((arg) => `"${arg}"`) : args, {
    cwd,
    env: { ...process.env, ...env },
    shell: isBatch,
    stdio: ["ignore", "pipe", "pipe"],
    ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
  });
  const [output, everything]: [string[], string[]] = [[], []];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output.push(text);
    everything.push(text);
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => everything.push(text));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, output: output.join(""), everything: everything.join("") };
}

/** Runs a program that must succeed. @returns its standard output */
export async function run(program: string, args: readonly string[], options: RunOptions): Promise<string> {
  const { code, output, everything } = await outcomeOf(program, args, options);
  if (code === 0) return output;
  throw new Error(`${[program, ...args].join(" ")} ended with ${code}\n${everything}`);
}
