// Refactoring and training on several machines: the fleet of a coordinator, and a machine of it.

import { once } from "node:events";
import { openArtefacts } from "../artefacts.ts";
import { RefactorWorker } from "../tasks/refactor-worker.ts";
import type { RefactorFleet } from "../options.ts";
import type { Command } from "commander";
import {
  withModelFiles,
  requireOption,
  stopSignals,
  reportSeldom,
  type FleetFlags,
  type RuntimeFlags,
} from "readme-moe/command-parts";

const NO_MACHINE =
  "note: no machine takes the tasks; start `readme-moe worker <model> --refactor` with the same model, --fleet and --artefacts";

/**
 * Opens the machines behind a URL, which are found through their queue.
 *
 * @returns nothing without a URL, or without a place that the machines share
 */
export async function openRefactorFleet(
  { fleet, artefacts: place }: FleetFlags & { readonly artefacts?: string | undefined },
  { pollMs }: { readonly pollMs?: number } = {},
): Promise<(RefactorFleet & AsyncDisposable) | undefined> {
  if (fleet === undefined || place === undefined) return undefined;
  const { FlowCoordinator } = await import("@readme-moe/fleet");
  const artefacts = await openArtefacts(place);
  const coordinator = await FlowCoordinator.open({ fleet, pollMs, onError: reportSeldom(), onIdle: reportNoMachine });
  return {
    artefacts,
    run: (flow) => coordinator.run(flow),
    [Symbol.asyncDispose]: () => coordinator.close(),
  };
}

function reportNoMachine(): void {
  console.error(NO_MACHINE);
}

interface MachineFlags extends Pick<RuntimeFlags, "threads" | "cacheFolder"> {
  readonly fleet: string;
  readonly artefacts: string;
}

/** Takes tasks until a signal stops the machine. */
export async function runRefactorWorker(
  path: string,
  { fleet, artefacts: place, threads, cacheFolder }: MachineFlags,
  interrupted: AbortSignal,
): Promise<void> {
  const { FlowWorker, parseFleetUrl } = await import("@readme-moe/fleet");
  const address = parseFleetUrl(fleet);
  using stop = stopSignals(interrupted);
  const abort = new AbortController();
  const takeTasks = async (machine: RefactorWorker): Promise<void> => {
    const { machines } = machine;
    const run = ({ plan, task }: { plan: string; task: string }): Promise<void> => machine.run(plan, task);
    const worker = FlowWorker.open({ fleet: address, machines, run, abort, onError: reportSeldom() });
    console.log(`machine ${machines.slice(0, 8)}`);
    if (!stop.signal.aborted) await once(stop.signal, "abort");
    await worker.close();
  };
  const open = { artefacts: await openArtefacts(place), threads, signal: abort.signal };
  await withModelFiles(
    path,
    stop.signal,
    async (model) => {
      const machine = await RefactorWorker.open(model, open);
      try {
        await takeTasks(machine);
      } finally {
        await machine.dispose();
      }
    },
    cacheFolder === undefined ? {} : { cacheFolder },
  );
}

/** Refuses a fleet without a place for artefacts, and the other way round. */
export function requireBoth(command: Command, artefacts: string | undefined): void {
  // A machine that serves a fleet has its URL in the environment, and may still work alone.
  if (command.getOptionValueSource("fleet") === "cli") requireOption(command, "artefacts");
  if (artefacts !== undefined) requireOption(command, "fleet");
}
