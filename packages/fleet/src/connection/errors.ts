// Failures of the connection, without the secrets that a driver's errors may carry.

import { ReadMeError } from "@readme-moe/core";
import { describeAddress, type FleetAddress } from "./address.ts";

/** Creates the error of a Valkey or Redis that does not answer. */
export function unreachable(address: FleetAddress, what: string, cause?: unknown): ReadMeError {
  const text = `The fleet's ${describeAddress(address)} does not answer (${what})`;
  return new ReadMeError("ERR_FLEET_UNREACHABLE", text, {
    cause: cause === undefined ? undefined : bare(cause, address),
  });
}

/** Copies an error's name and message. A driver's error has the command with its arguments, such as a password. */
function bare(error: unknown, { password, sentinelPassword }: FleetAddress): Error {
  const name = error instanceof Error ? error.name : "Error";
  const message = error instanceof Error ? error.message : String(error);
  const secrets = [password, sentinelPassword].filter((secret) => secret !== undefined);
  const clean = secrets.reduce((text, secret) => text.replaceAll(secret, "…"), message);
  return Object.assign(new Error(clean), { name });
}
