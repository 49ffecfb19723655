import { fork } from "node:child_process";
import { once } from "node:events";
import { expect } from "vitest";
import { NODE_ARGUMENTS } from "./run-cli.ts";

/**
 * Runs a program that sends messages to its end, or kills it at message `killAt`.
 *
 * @returns the number of messages
 */
export async function runUpTo(program: string, args: readonly string[], killAt: number): Promise<number> {
  const child = fork(program, args, { execArgv: [...NODE_ARGUMENTS] });
  let messages = 0;
  child.on("message", () => {
    messages++;
    if (messages === killAt) child.kill("SIGKILL");
  });
  const [code, signal] = (await once(child, "exit")) as [number | null, string | null];
  if (signal === null) expect(code).toBe(0);
  return messages;
}
