import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { randomInteger, seededRandom } from "./random.ts";
import { NODE_ARGUMENTS } from "./run-cli.ts";

/**
 * Runs a program that sends messages to its end, or kills it at a message.
 *
 * @param isLast - tells which message it is, by its text and its number
 * @returns the number of messages
 */
export async function runUpTo(
  program: string,
  args: readonly string[],
  isLast: (message: unknown, index: number) => boolean,
): Promise<number> {
  const child = fork(program, args, { execArgv: [...NODE_ARGUMENTS] });
  let messages = 0;
  child.on("message", (message) => {
    messages++;
    if (isLast(message, messages)) child.kill("SIGKILL");
  });
  const [code, signal] = (await once(child, "exit")) as [number | null, string | null];
  if (signal === null) expect(code).toBe(0);
  return messages;
}

/** A program that writes a folder, whose unfinished work it keeps in `<folder>.unfinished`. */
export interface ResumableProgram {
  readonly program: string;
  /** Arguments before the folder and `resume`. @default none */
  readonly args?: readonly string[];
  /** Number of kills at random messages. */
  readonly kills: number;
  readonly seed: number;
}

/**
 * Runs a program to its end in `<folder>/whole`, and in `<folder>/killed` with kills, after which it resumes.
 *
 * @returns the paths of both
 */
export async function runWholeAndKilled(
  folder: string,
  { program, args = [], kills, seed }: ResumableProgram,
): Promise<{ readonly whole: string; readonly killed: string }> {
  const run = (out: string, killAt: number): Promise<number> =>
    runUpTo(
      program,
      [...args, out, ...(existsSync(`${out}.unfinished`) ? ["resume"] : [])],
      (_, index) => index === killAt,
    );
  const [whole, killed] = [join(folder, "whole"), join(folder, "killed")];
  const numMessages = await run(whole, Infinity);
  const random = seededRandom(seed);
  for (let kill = 0; kill < kills && !existsSync(killed); kill++) {
    // Finished work sends no messages again: later kills come early or not at all.
    await run(killed, 1 + randomInteger(random, numMessages));
  }
  if (!existsSync(killed)) await run(killed, Infinity);
  return { whole, killed };
}
