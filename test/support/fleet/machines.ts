// Machines of a fleet as processes on this one.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { COMMAND_LINE } from "../run-cli.ts";

const ROOT = join(import.meta.dirname, "..", "..", "..");

/** A machine that runs a model. */
export interface Machine {
  readonly id: string;
  readonly child: ChildProcess;
  /** Resolves with the exit code when the process has ended. */
  readonly ended: Promise<number | null>;
  readonly errors: () => string;
}

/** A machine to start. */
export interface MachineSetup {
  readonly fleet: string;
  readonly model: string;
  readonly id: string;
  readonly args?: readonly string[];
}

/** Starts a worker, and waits until it takes requests. */
export async function startMachine({ fleet, model, id, args = [] }: MachineSetup): Promise<Machine> {
  // The engine is a thread, so that what happens to the process happens to it.
  const flags = [
    "worker",
    model,
    "--precision",
    "fp32",
    "--worker-id",
    id,
    "--threads",
    "1",
    "--isolation",
    "thread",
    ...args,
  ];
  const env = { ...process.env, README_MOE_FLEET: fleet };
  const child = spawn(process.execPath, [...COMMAND_LINE, ...flags], { cwd: ROOT, env });
  let errors = "";
  child.stderr.on("data", (data: Buffer) => (errors += data.toString()));
  const onExit = (): boolean => child.kill("SIGKILL");
  process.once("exit", onExit);
  child.once("close", () => process.off("exit", onExit));
  const ended = once(child, "close").then(([code]) => code as number | null);
  const lines = createInterface({ input: child.stdout });
  const began = once(lines, "line").then(() => true);
  if (!(await Promise.race([began, ended.then(() => false)]))) throw new Error(`The worker ${id} ended: ${errors}`);
  return { id, child, ended, errors: () => errors };
}

/** Ends a machine at once. */
export async function killMachine({ child, ended }: Machine): Promise<void> {
  child.kill("SIGKILL");
  await ended;
}
