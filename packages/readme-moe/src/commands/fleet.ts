import { Command } from "commander";
import type { FleetStatus, FrontStatus, PublishedWorker, QueueStatus, VersionStatus } from "@readme-moe/fleet";
import { fleetOption, type FleetFlags, examples, jsonOption, requireOption } from "../options.ts";
import { fleetModule } from "../optional-modules.ts";
import { alignedTable, type Column } from "../terminal.ts";

interface StatusFlags extends FleetFlags {
  readonly json: boolean;
}

export function fleetCommand(): Command {
  const status = new Command("status")
    .summary("show the workers and queues of a fleet")
    .description("Shows the machines of a fleet, what they run, and what waits.")
    .addOption(fleetOption("Valkey or Redis of the fleet"))
    .addOption(jsonOption())
    .addHelpText("after", examples("readme-moe fleet status --fleet redis://cache:6379"));
  status.action(async ({ fleet, json }: StatusFlags) => {
    requireOption(status, "fleet");
    const { readFleetStatus } = await fleetModule("`readme-moe fleet`");
    const found = await readFleetStatus(fleet ?? "");
    for (const line of json ? [JSON.stringify(found)] : statusLines(found)) console.log(line);
  });
  return new Command("fleet")
    .summary("look at a fleet of machines that serve one model")
    .description("Looks at a fleet of machines that serve one model.")
    .addCommand(status);
}

const VERSION_COLUMNS: readonly Column<VersionStatus>[] = [
  ["model", ({ modelVersion }) => modelVersion.slice(0, 8), "left"],
  ["workers", ({ workers }) => String(workers)],
  ["draining", ({ draining }) => String(draining)],
  ["places", ({ places }) => String(places)],
  ["running", ({ running }) => String(running)],
  ["waiting", ({ waiting }) => String(waiting)],
];

const WORKER_COLUMNS: readonly Column<PublishedWorker>[] = [
  ["worker", ({ id }) => id, "left"],
  ["model", ({ modelVersion }) => modelVersion.slice(0, 8), "left"],
  ["prompts", ({ promptVersion }) => promptVersion.slice(0, 8), "left"],
  ["running", ({ runningSeqs }) => String(runningSeqs)],
  ["free", ({ freeSeqs }) => String(freeSeqs)],
  ["ms/step", ({ stepMs }) => stepMs.toFixed(1)],
  ["answered", ({ counters }) => String(counters.answered)],
  ["resumed", ({ counters }) => String(counters.resumed)],
  ["handed on", ({ counters }) => String(counters.released)],
  ["lost", ({ counters }) => String(counters.foreign)],
  ["different", ({ counters }) => String(counters.different)],
  ["", ({ isDraining }) => (isDraining ? "draining" : ""), "left"],
];

const FRONT_COLUMNS: readonly Column<FrontStatus & { readonly workers: number }>[] = [
  ["front", ({ id }) => id.slice(0, 8), "left"],
  ["prompts", ({ promptVersion }) => promptVersion.slice(0, 8), "left"],
  ["workers", ({ workers }) => String(workers)],
];

const QUEUE_COLUMNS: readonly Column<QueueStatus>[] = [
  ["queue", ({ key }) => key, "left"],
  ["model", ({ modelVersion }) => modelVersion.slice(0, 8), "left"],
  ["waiting", ({ waiting }) => String(waiting)],
  ["running", ({ running }) => String(running)],
];

/** Formats a fleet as lines of text. */
function statusLines({ address, versions, workers, fronts, queues }: FleetStatus): readonly string[] {
  // One version is that of every worker below.
  const versionLines = versions.length > 1 ? [...alignedTable(VERSION_COLUMNS, versions), ""] : [];
  const workerLines = workers.length === 0 ? ["no worker"] : alignedTable(WORKER_COLUMNS, workers);
  const served = fronts.map((front) => ({
    ...front,
    workers: workers.filter((one) => one.promptVersion === front.promptVersion && !one.isDraining).length,
  }));
  const frontLines = fronts.length === 0 ? ["no front"] : alignedTable(FRONT_COLUMNS, served);
  const queueLines = queues.length === 0 ? ["no request"] : alignedTable(QUEUE_COLUMNS, queues);
  return [address, "", ...versionLines, ...workerLines, "", ...frontLines, "", ...queueLines];
}
