import { spawn } from "node:child_process";

export interface QuietOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
}

/** Runs a program without showing its output. @throws {Error} with its last line, when it fails */
export async function runQuietly(
  program: string,
  args: readonly string[],
  { env = {}, signal }: QuietOptions = {},
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"], signal });
    let last = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => (last = text.trim().split("\n").at(-1) || last));
    }
    child.once("error", reject);
    child.once("close", (code, name) => {
      if (code === 0) resolve();
      else reject(new Error(`${program} ended with ${name ?? `code ${String(code)}`}: ${last}`));
    });
  });
}
