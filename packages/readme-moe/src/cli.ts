// The command line. Results go to standard output, everything else to standard error.
// Exit codes: 0 success, 1 failure, 2 wrong call, 130 interrupted.

import { readFileSync } from "node:fs";
import { ReadMeError } from "@readme-moe/core";
import { Command, CommanderError } from "commander";
import { applyCommand } from "./commands/apply.ts";
import { answerCommand } from "./commands/answer.ts";
import { cacheCommand } from "./commands/cache.ts";
import { chatCommand } from "./commands/chat.ts";
import { embedCommand } from "./commands/embed.ts";
import { evalCommand } from "./commands/eval.ts";
import { expertsCommand } from "./commands/experts.ts";
import { exportCommand } from "./commands/export.ts";
import { fleetCommand } from "./commands/fleet.ts";
import { generateCommand } from "./commands/generate.ts";
import { inspectCommand } from "./commands/inspect.ts";
import { listCommand } from "./commands/list.ts";
import { packCommand } from "./commands/pack.ts";
import { planCommand } from "./commands/plan.ts";
import { psCommand } from "./commands/ps.ts";
import { pullCommand } from "./commands/pull.ts";
import { refactorCommand } from "./commands/refactor.ts";
import { removeCommand } from "./commands/remove.ts";
import { rerankCommand } from "./commands/rerank.ts";
import { serveCommand } from "./commands/serve.ts";
import { simulateCommand } from "./commands/simulate.ts";
import { tuneCommand } from "./commands/tune.ts";
import { workerCommand } from "./commands/worker.ts";
import { examples } from "./options.ts";

/** Messages of the language itself: a mistake of the program, which is printed in full, and not the caller's. */
const DEFECT =
  /^Cannot (?:read|set|destructure|convert|mix) | is not (?:a function|a constructor|iterable)\b|^Invalid array length|^Maximum call stack/;

const EXIT = { done: 0, failed: 1, wrongUsage: 2, interrupted: 130 } as const;

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
    await commandLine(interrupt.signal).parseAsync(args, { from: "user" });
    return EXIT.done;
  } catch (error) {
    if (interrupt.signal.aborted) return EXIT.interrupted;
    return reportError(error);
  } finally {
    process.off("SIGINT", onSignal);
  }
}

/** Makes the parser of all commands. @param signal - aborts their work */
export function commandLine(signal: AbortSignal): Command {
  const command = new Command("readme-moe")
    .description("Runs and serves language models on ordinary CPUs, and refactors them into mixtures of experts.")
    .version(ownVersion(), "-v, --version", "print the version")
    .showSuggestionAfterError()
    .exitOverride()
    .commandsGroup("Run a model:")
    .addCommand(chatCommand(signal))
    .addCommand(generateCommand(signal))
    .addCommand(serveCommand(signal))
    .addCommand(psCommand())
    .addCommand(embedCommand(signal))
    .addCommand(rerankCommand(signal))
    .commandsGroup("Models on this machine:")
    .addCommand(pullCommand(signal))
    .addCommand(listCommand())
    .addCommand(removeCommand(signal))
    .addCommand(cacheCommand())
    .addCommand(inspectCommand(signal))
    .addCommand(planCommand(signal))
    .addCommand(evalCommand(signal))
    .addCommand(exportCommand(signal))
    .commandsGroup("Experts and tuning:")
    .addCommand(refactorCommand(signal))
    .addCommand(answerCommand(signal))
    .addCommand(tuneCommand(signal))
    .addCommand(expertsCommand(signal))
    .addCommand(packCommand(signal))
    .addCommand(applyCommand(signal))
    .addCommand(simulateCommand())
    .commandsGroup("Several machines:")
    .addCommand(workerCommand(signal))
    .addCommand(fleetCommand())
    .addHelpText(
      "after",
      examples("readme-moe chat smollm2:135m", "readme-moe pull qwen3:0.6b", "readme-moe serve Qwen/Qwen3-0.6B"),
    );
  for (const child of command.commands) passSettings(child, command.name());
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
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.wrongUsage;
  if (error instanceof ReadMeError) {
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
