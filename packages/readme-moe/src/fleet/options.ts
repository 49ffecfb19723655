// Options of the commands that belong to a fleet of machines.

import { Option } from "commander";

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

/** Creates the option that names what the machines of a refactoring or training share. */
export function artefactsOption(): Option {
  return new Option(
    "--artefacts <place>",
    "what the machines share: a folder, or s3://bucket/prefix with AWS_ENDPOINT_URL and keys in the environment",
  );
}
