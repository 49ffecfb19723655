// The command line. Results go to standard output, everything else to standard error.
// Exit codes: 0 success, 1 failure, 2 wrong call, 130 interrupted; `launch --run` has that of its client.

import { readFileSync } from "node:fs";
import type { ReadMeError } from "@readme-moe/core";
import { Command, type CommanderError } from "commander";
import { cacheCommand } from "./commands/cache.ts";
import { chatCommand } from "./commands/chat.ts";
import { evalCommand } from "./commands/eval.ts";
import { expertsCommand } from "./commands/experts.ts";
import { fleetCommand } from "./commands/fleet.ts";
import { generateCommand } from "./commands/generate.ts";
import { inspectCommand } from "./commands/inspect.ts";
import { ClientEnded, launchCommand } from "./commands/launch.ts";
import { listCommand } from "./commands/list.ts";
import { planCommand } from "./commands/plan.ts";
import { classifyCommand, embedCommand, rerankCommand } from "./commands/pooling.ts";
import { psCommand } from "./commands/ps.ts";
import { pullCommand } from "./commands/pull.ts";
import { removeCommand } from "./commands/remove.ts";
import { serveCommand } from "./commands/serve.ts";
import { workerCommand } from "./commands/worker.ts";
import { absentCommands, type Lab, labNote, openLab } from "./optional-modules.ts";
import { examples } from "./options.ts";

/** Messages of the language itself: a mistake of the program, which is printed in full, and not the caller's. */
const DEFECT =
  /^Cannot (?:read|set|destructure|convert|mix) | is not (?:a function|a constructor|iterable)\b|^Invalid array length|^Maximum call stack/;

const EXIT = { done: 0, failed: 1, wrongUsage: 2, interrupted: 130 } as const;

export { type Lab, openLab } from "./optional-modules.ts";

/** Runs one command and reports its errors. @returns the exit code */
export async function runCli(args: readonly string[]): Promise<number> {
  const interrupt = new AbortController();
  const onSignal = (): void => interrupt.abort();
  process.once("SIGINT", onSignal);
  // `readme-moe … | head` closes the pipe early, which is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(EXIT.done);
    throw error;
  });
  try {
    const isOwn = commandLine(interrupt.signal).commands.some((one) =>
      [one.name(), one.alias()].includes(args[0] ?? ""),
    );
    // Loading the lab takes longer than many a command.
    const lab = isOwn ? undefined : await openLab();
    await commandLine(interrupt.signal, lab).parseAsync(args, { from: "user" });
    return EXIT.done;
  } catch (error) {
    if (error instanceof ClientEnded) return error.exitCode;
    if (interrupt.signal.aborted) return EXIT.interrupted;
    return reportError(error);
  } finally {
    process.off("SIGINT", onSignal);
  }
}

/**
 * Makes the parser of all commands.
 *
 * @param signal - aborts their work
 * @param lab - where commands come from that make and study models @default none
 */
export function commandLine(signal: AbortSignal, lab?: Lab): Command {
  const command = new Command("readme-moe")
    .description("Runs and serves language models on ordinary CPUs.")
    .version(ownVersion(), "-v, --version", "print the version")
    .showSuggestionAfterError()
    .exitOverride()
    .commandsGroup("Run a model:")
    .addCommand(chatCommand(signal))
    .addCommand(generateCommand(signal))
    .addCommand(serveCommand(signal))
    .addCommand(psCommand())
    .addCommand(launchCommand())
    .addCommand(embedCommand(signal))
    .addCommand(rerankCommand(signal))
    .addCommand(classifyCommand(signal))
    .commandsGroup("Models on this machine:")
    .addCommand(pullCommand(signal))
    .addCommand(listCommand())
    .addCommand(removeCommand(signal))
    .addCommand(cacheCommand())
    .addCommand(inspectCommand(signal))
    .addCommand(planCommand(signal))
    .addCommand(evalCommand(signal))
    .addCommand(expertsCommand(signal))
    .commandsGroup("Several machines:")
    .addCommand(workerCommand(signal))
    .addCommand(fleetCommand())
    .commandsGroup("Make and study models:");
  if (lab && "module" in lab) for (const child of lab.module.labCommands(signal)) command.addCommand(child);
  for (const child of command.commands) passSettings(child, command.name());
  if (lab && !("module" in lab)) {
    for (const child of absentCommands(lab)) command.addCommand(child.exitOverride(), { hidden: true });
    command.addHelpText("after", labNote(lab));
  }
  command.addHelpText(
    "after",
    examples("readme-moe chat smollm2:135m", "readme-moe pull qwen3:0.6b", "readme-moe serve Qwen/Qwen3-0.6B"),
  );
  return command.showHelpAfterError("`readme-moe --help` lists the commands");
}

function ownVersion(): string {
  const manifest: { readonly version: string } = JSON.parse(
    readFileSync(new URL("../package.json", import.meta.url), "utf8"),
  );
  return manifest.version;
}

/** Commander does not pass these settings on to commands that were made separately. @param parent - name before it */
function passSettings(command: Command, parent: string): void {
  const name = `${parent} ${command.name()}`;
  command.exitOverride().showSuggestionAfterError().allowExcessArguments(false);
  command.showHelpAfterError(`\`${name} --help\` shows how to call it`);
  for (const child of command.commands) passSettings(child, name);
}

/** Prints an error: one line for what a user can meet, else all of it. @returns the exit code */
export function reportError(error: unknown): number {
  // Commander has written its own message, or the help.
  if (isNamed(error, "CommanderError")) return error.exitCode === 0 ? EXIT.done : EXIT.wrongUsage;
  if (isNamed(error, "ReadMeError")) {
    console.error(`error: ${error.message} (${error.code})`);
    return EXIT.failed;
  }
  if ((error instanceof TypeError || error instanceof RangeError) && !DEFECT.test(error.message)) {
    console.error(`error: ${error.message}`);
    return EXIT.wrongUsage;
  }
  console.error(error);
  return EXIT.failed;
}

interface NamedErrors {
  readonly CommanderError: CommanderError;
  readonly ReadMeError: ReadMeError;
}

/** Tells errors of a class by its name: a lab that is installed elsewhere has classes of its own. */
function isNamed<Name extends keyof NamedErrors>(error: unknown, name: Name): error is NamedErrors[Name] {
  return error instanceof Error && error.name === name;
}
