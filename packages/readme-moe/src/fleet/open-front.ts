// A front of a fleet: it reads prompts, and other machines run the model.

import type { Engine } from "@readme-moe/core";
import { openPromptReader, readerOptionsOf } from "@readme-moe/engine";
import { loraFolders } from "../loras/find-adapters.ts";
import { modelPath } from "../models.ts";
import { fleetModule } from "../optional-modules.ts";
import { type EngineFlags, engineOptionsOf } from "../options.ts";

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
