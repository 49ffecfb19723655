// Admission of a front: a request that would wait for too long is refused before any work is done for it.

import { ReadMeError } from "@readme-moe/core";
import type { FleetAddress } from "../connection/address.ts";
import { unreachable } from "../connection/errors.ts";
import type { FleetView } from "./fleet-view.ts";

/** Age of the view of the workers beyond which nothing is admitted, in ms. */
const MAX_AGE_MS = 5000;

/** Request that asks for room. */
interface AskedRoom {
  readonly priority: number;
  readonly maxWaitMs: number;
  /** Other requests of this front that have not ended. */
  readonly numOpen: number;
}

/** Finds the error that every request gets at this time, since Valkey or the workers are away. */
export function findLack(view: Pick<FleetView, "ageMs" | "noWorker">, address: FleetAddress): ReadMeError | undefined {
  return view.ageMs > MAX_AGE_MS ? unreachable(address, "state of the workers") : view.noWorker;
}

/**
 * Refuses a request that would wait for too long.
 *
 * @returns the model version that it goes to
 * @throws {ReadMeError} `ERR_QUEUE_FULL`, with the time to wait; `ERR_NO_WORKER`; `ERR_FLEET_UNREACHABLE`
 */
export function admitRequest(
  view: Pick<FleetView, "ageMs" | "admit" | "noWorker" | "snapshot">,
  address: FleetAddress,
  { priority, maxWaitMs, numOpen }: AskedRoom,
): string {
  const lack = findLack(view, address);
  if (lack) throw lack;
  const { isAdmitted, retryAfterMs } = view.admit(priority, maxWaitMs, numOpen);
  const { modelVersion } = view.snapshot;
  if (isAdmitted && modelVersion !== undefined) return modelVersion;
  const retry = Number.isFinite(retryAfterMs) ? { retryAfterMs: Math.max(1000, retryAfterMs) } : {};
  throw new ReadMeError("ERR_QUEUE_FULL", "All workers of the fleet are busy; try again later", retry);
}
