// A front of a fleet: it reads prompts, and other machines run the model. Rate limits are shared by the fronts.

import type { Engine, ReadMeEmitter } from "@readme-moe/core";
import { openPromptReader, readerOptionsOf } from "@readme-moe/engine";
import type { SharedLimits } from "@readme-moe/fleet";
import { loraFolders } from "../loras/find-adapters.ts";
import { modelPath } from "../models.ts";
import { fleetModule } from "../optional-modules.ts";
import { type EngineFlags, engineOptionsOf, type FleetFlags } from "../options.ts";
import type { ServingFlags } from "../serving/serving-flags.ts";

/** An engine and what ends it. */
export interface OpenedFront {
  readonly engine: Engine;
  readonly close: () => Promise<void>;
}

type FrontFlags = EngineFlags & {
  readonly fleet: string;
  /** Longest predicted wait of a request that is admitted. */
  readonly maxQueueMs?: number;
};

/** Time between two lines about one connection, in ms. */
const REPORT_MS = 10_000;

/**
 * Opens a front.
 *
 * @throws {TypeError | RangeError} on a wrong URL
 * @throws {ReadMeError} `ERR_FLEET_UNREACHABLE`, and as `openPromptReader`
 */
export async function openFront(
  name: string,
  { fleet, maxQueueMs, ...flags }: FrontFlags,
  signal: AbortSignal,
): Promise<OpenedFront> {
  const { FleetEngine, parseFleetUrl } = await fleetModule("`--fleet`");
  const address = parseFleetUrl(fleet);
  const path = await modelPath(name, signal, flags);
  const loras = await loraFolders(flags.lora, signal);
  const reader = await openPromptReader(path, { ...readerOptionsOf(engineOptionsOf(flags)), loras, signal });
  try {
    const engine = await FleetEngine.open({ fleet: address, reader, maxWaitMs: maxQueueMs, onError: reportSeldom() });
    return { engine, close: () => engine.dispose() };
  } catch (error) {
    await reader.dispose();
    throw error;
  }
}

/** Makes a function that prints errors, the same at most every ten seconds. */
export function reportSeldom(print: (text: string) => void = console.error): (error: Error) => void {
  const printedMs = new Map<string, number>();
  return ({ message }) => {
    const nowMs = performance.now();
    if (nowMs - (printedMs.get(message) ?? -Infinity) < REPORT_MS) return;
    // Few messages differ; the map is emptied so that it cannot grow.
    if (printedMs.size >= 100) printedMs.clear();
    printedMs.set(message, nowMs);
    print(`note: ${message}`);
  };
}

/** Rate limits, as numbers or as limiters. */
export interface OpenedLimits extends Disposable {
  readonly requestsPerMinute: number | SharedLimits["requestsPerMinute"];
  readonly tokensPerMinute: number | SharedLimits["tokensPerMinute"];
}

/** Opens the rate limits that the flags ask for. @throws {TypeError | RangeError} on a wrong URL of the fleet */
export async function openLimits(
  { fleet, requestsPerMinute, tokensPerMinute }: ServingFlags & FleetFlags,
  events: ReadMeEmitter,
): Promise<OpenedLimits> {
  const limits = { requestsPerMinute, tokensPerMinute };
  const hasLimit = requestsPerMinute !== undefined || tokensPerMinute !== undefined;
  if (fleet === undefined || !hasLimit) return { ...limits, [Symbol.dispose]: () => undefined };
  const { openSharedLimits } = await fleetModule("`--fleet`");
  const note = reportSeldom();
  const shared = openSharedLimits({
    ...limits,
    fleet,
    onLocal: (unit) => {
      events.emit("limit:local", { unit });
      note(new Error(`the fleet's counts of ${unit} per minute cannot be read; this front counts for itself`));
    },
    // The front's own connections report the same failures.
    onError: () => undefined,
  });
  const { close, ...limiters } = shared;
  return { ...limiters, [Symbol.dispose]: close };
}
