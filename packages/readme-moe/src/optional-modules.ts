// Finds packages that the command line works without: the lab with its commands, and fleets of machines.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { ReadMeError } from "@readme-moe/core";
import { Command } from "commander";
import type { RuntimeFlags } from "./options.ts";

/** Exports of a package, or the reason why it is not there or cannot be loaded. */
type Optional<Module> = { readonly module: Module } | { readonly missing: string } | { readonly failure: ReadMeError };

/** Exports of `@readme-moe/refactor/commands`. */
interface LabModule {
  readonly labCommands: (signal: AbortSignal) => readonly Command[];
  readonly runRefactorWorker: (path: string, flags: LabWorkerFlags, interrupted: AbortSignal) => Promise<void>;
}

/** Flags of a machine that takes tasks of refactorings and trainings. */
interface LabWorkerFlags extends Pick<RuntimeFlags, "threads" | "cacheFolder"> {
  readonly fleet: string;
  readonly artefacts: string;
}

/** The lab, where it is installed. */
export type Lab = Optional<LabModule>;

/** Names of the lab's commands, for messages where it is not installed. */
const LAB_COMMANDS: readonly string[] = ["answer", "refactor", "tune", "pack", "apply", "export", "simulate"];

/** Lists files beside which the lab is looked for: this one, the program as a link called it, and the project's. */
function labPlaces(): readonly string[] {
  return [import.meta.filename, process.argv[1] ?? "", join(process.cwd(), "package.json")];
}

/** Opens the lab's commands. @param places - files beside which it is looked for, the first one first */
export function openLab(places: readonly string[] = labPlaces()): Promise<Lab> {
  return openOptional("@readme-moe/refactor", "/commands", places);
}

/**
 * Opens the package of fleets beside the command line. One elsewhere would have other classes of errors.
 *
 * @param what - what needs it, for the message
 * @throws {TypeError | ReadMeError} when it is not installed, or cannot be loaded
 */
export async function fleetModule(what: string): Promise<typeof import("@readme-moe/fleet")> {
  return moduleOf(await openOptional("@readme-moe/fleet", "", [import.meta.filename]), what);
}

async function openOptional<Module>(name: string, entry: string, places: readonly string[]): Promise<Optional<Module>> {
  for (const place of places) {
    const folder = installedFor(dirname(place), name);
    if (folder === undefined) continue;
    try {
      // A package finds itself by its name.
      const { resolve } = createRequire(join(folder, "package.json"));
      return { module: (await import(pathToFileURL(resolve(name + entry)).href)) as Module };
    } catch (cause) {
      const why = cause instanceof Error ? cause.message.split("\n", 1)[0] : String(cause);
      const message = `${folder}: is installed, and cannot be loaded: ${why}`;
      return { failure: new ReadMeError("ERR_MODULE", message, { cause }) };
    }
  }
  return { missing: `${name}, which is not installed here: npm install ${name}` };
}

/** Finds a package's folder as Node does from `folder`. */
function installedFor(folder: string, name: string): string | undefined {
  const found = join(folder, "node_modules", name);
  if (existsSync(join(found, "package.json"))) return found;
  return folder === dirname(folder) ? undefined : installedFor(dirname(folder), name);
}

/**
 * Returns what a package exports.
 *
 * @param what - what needs it, for the message
 * @throws {TypeError | ReadMeError} when it is not installed, or cannot be loaded
 */
export function moduleOf<Module>(optional: Optional<Module>, what: string): Module {
  if ("module" in optional) return optional.module;
  throw "failure" in optional ? optional.failure : new TypeError(`${what} comes with ${optional.missing}`);
}

/** Makes commands that stand for those of a lab that is not there: they say why. */
export function absentCommands(lab: Lab): readonly Command[] {
  return LAB_COMMANDS.map((name) =>
    new Command(name)
      .argument("[any...]")
      .allowUnknownOption()
      .helpOption(false)
      .action(() => void moduleOf(lab, `\`readme-moe ${name}\``)),
  );
}

/** Says in the help how to get the commands of a lab that is not there. */
export function labNote(lab: Lab): string {
  if ("module" in lab) return "";
  const why = "failure" in lab ? lab.failure.message : `come with ${lab.missing}`;
  return `\nCommands that make and study models (${LAB_COMMANDS.join(", ")}) ${why}`;
}
