// README.md as a reader follows it: its programs and commands run as they stand there, except for the port.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import { outcomeOf } from "../../tools/packages/run.ts";
import { blocksOf, noteOf, type Block } from "../support/docs/markdown.ts";
import { isReady } from "../support/docs/is-ready.ts";
import { freePort } from "../support/free-port.ts";

/** Place of the reader. */
export interface Reader {
  /** A folder where the packages and the model's name are found. */
  readonly folder: string;
  /** Command that README.md gives for a saved program, before its name. */
  readonly program: readonly [command: string, ...args: string[]];
  readonly env: Readonly<Record<string, string>>;
}

/** Runs all programs of README.md, the request to its server, and the commands that are marked as running. */
export async function followReadme(reader: Reader): Promise<{ readonly programs: number; readonly commands: number }> {
  const blocks = blocksOf("README.md");
  const programs = blocks.filter(({ language }) => language === "js");
  const [request] = blocks.filter((block) => noteOf(block, "asks the server"));
  for (const program of programs) {
    if (program.lines.some((line) => line.includes(".listen(8080"))) await serve(program, request, reader);
    else await runToItsEnd(program, reader);
  }
  const commands = blocks.filter((block) => block.language === "sh" && noteOf(block, "runs"));
  for (const { lines, line } of commands) {
    const { code, everything } = await shell(lines.join("\n"), reader);
    expect(code, `README.md:${line}: ${everything}`).toBe(0);
  }
  return { programs: programs.length, commands: commands.length };
}

async function runToItsEnd(block: Block, reader: Reader): Promise<void> {
  const [command, ...args] = await save(block, reader);
  const { code, output, everything } = await outcomeOf(command, args, { cwd: reader.folder, env: reader.env });
  expect(code, `README.md:${block.line}: ${everything}`).toBe(0);
  expect(output.trim()).not.toBe("");
}

async function serve(block: Block, request: Block | undefined, reader: Reader): Promise<void> {
  const port = `${await freePort()}`;
  const [command, ...args] = await save(block, reader, port);
  // In a group of its own, because npm passes no signal on to what it runs through a shell.
  const child = spawn(command, args, {
    cwd: reader.folder,
    env: { ...process.env, ...reader.env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  let told = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text: Buffer) => (told += text.toString()));
  const closed = once(child, "close");
  try {
    while (!(await isReady(`http://127.0.0.1:${port}/readyz`))) expect(child.exitCode, told).toBe(null);
    const { code, output, everything } = await shell(request?.lines.join("\n").replaceAll("8080", port) ?? "", reader);
    expect(code, everything).toBe(0);
    expect(JSON.parse(output), output).toMatchObject({ object: "chat.completion", choices: [{ index: 0 }] });
  } finally {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGKILL");
    await closed;
  }
}

/** Saves a program under a name of its own. @returns the command that runs it */
async function save(block: Block, { folder, program }: Reader, port = "8080"): Promise<[string, ...string[]]> {
  const name = `readme-${block.line}.mjs`;
  await writeFile(join(folder, name), block.lines.join("\n").replaceAll("8080", port));
  return [...program, name];
}

function shell(commands: string, { folder, env }: Reader): ReturnType<typeof outcomeOf> {
  return outcomeOf("bash", ["-euo", "pipefail", "-c", commands], { cwd: folder, env });
}
