// Options of the commands that belong to a fleet of machines.

import { Option, type Command } from "commander";
import { requireOption } from "../options.ts";

/** Flags of a front. */
export interface FleetFlags {
  /** URL of the fleet's Valkey or Redis; may hold a password. */
  readonly fleet?: string | undefined;
}

/** Creates the option that names a fleet. Its value may hold a password, so no message shows it. */
export function fleetOption(description: string): Option {
  return new Option("--fleet <url>", `${description}; better set the environment variable, others can see it here`).env(
    "README_MOE_FLEET",
  );
}

/** Refuses a fleet without a place for artefacts, and the other way round. */
export function requireBoth(command: Command, artefacts: string | undefined): void {
  // A machine that serves a fleet has its URL in the environment, and may still work alone.
  if (command.getOptionValueSource("fleet") === "cli") requireOption(command, "artefacts");
  if (artefacts !== undefined) requireOption(command, "fleet");
}

/** Creates the option that names what the machines of a refactoring or training share. */
export function artefactsOption(): Option {
  return new Option(
    "--artefacts <place>",
    "what the machines share: a folder, or s3://bucket/prefix with AWS_ENDPOINT_URL and keys in the environment",
  );
}
