import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { Command, Option } from "commander";
import type { FleetWorker, PublishedWorker } from "@readme-moe/fleet";
import {
  artefactsOption,
  fleetOption,
  type FleetFlags,
  portNumber,
  addOptions,
  engineFlag,
  examples,
  requireOption,
  type EngineFlags,
  engineOptions,
} from "../options.ts";
import { reportSeldom } from "../fleet/open-front.ts";
import { MODEL_ARGUMENT, openEngine, memoryPlanner } from "../models.ts";
import { fleetModule, moduleOf, openLab } from "../optional-modules.ts";
import { stopSignals, urlOf } from "../serving/http-server.ts";

interface WorkerFlags extends EngineFlags, FleetFlags {
  readonly workerId?: string;
  readonly port?: number;
  readonly host: string;
  readonly refactor: boolean;
  readonly artefacts?: string;
}

export function workerCommand(signal: AbortSignal): Command {
  const command = new Command("worker")
    .summary("run a model as a machine of a fleet")
    .description(
      "Runs a model as a machine of a fleet: takes requests of its fronts (`serve --fleet`) while it has room. " +
        "On SIGTERM or Ctrl-C it hands its requests to other machines, which go on with them, and exits. " +
        "With --refactor it takes tasks of refactorings of the model instead (`refactor --fleet`), and of trainings " +
        "of loras (`tune --experts low-rank --fleet`).",
    )
    .argument("<model>", MODEL_ARGUMENT);
  addOptions(
    command,
    fleetOption("Valkey or Redis of the fleet: redis://host:port, or redis+sentinel://host:port,host:port/name"),
    new Option("--worker-id <name>", "name in metrics and status (default: a random one)"),
    engineFlag("maxNumSeqs"),
    new Option("--port <n>", "port of /livez, /readyz and /metrics; 0 for any free one (default: none)").argParser(
      portNumber,
    ),
    new Option("--host <address>", "address of this port").default("127.0.0.1"),
    new Option("--refactor", "take tasks of refactorings and trainings instead of requests").default(false),
    artefactsOption(),
    ...engineOptions("thread"),
    engineFlag("controlTokensInMessages"),
  );
  command.addHelpText(
    "after",
    examples(
      "readme-moe worker smollm2:135m --fleet redis://cache:6379",
      "readme-moe worker smollm2:135m --refactor --fleet redis://cache:6379 --artefacts /mnt/shared",
    ),
  );
  return command.action(async (path: string, flags: WorkerFlags) => {
    requireOption(command, "fleet");
    const { fleet = "", artefacts = "" } = flags;
    if (!flags.refactor) return runWorker(path, { ...flags, fleet }, signal);
    requireOption(command, "artefacts");
    const { runRefactorWorker } = moduleOf(await openLab(), "`readme-moe worker --refactor`");
    return runRefactorWorker(path, { ...flags, fleet, artefacts }, signal);
  });
}

/** Works until a signal stops the worker, or its engine fails: whoever started it starts it again then. */
async function runWorker(
  path: string,
  flags: WorkerFlags & { readonly fleet: string },
  interrupted: AbortSignal,
): Promise<void> {
  const { FleetWorker, parseFleetUrl } = await fleetModule("`readme-moe worker`");
  const address = parseFleetUrl(flags.fleet);
  using stop = stopSignals(interrupted);
  // Nothing else runs in this process, and its tokens take one way less.
  const { isolation = "thread" } = flags;
  // Workers share requests only where their contexts are the same, whatever memory is free.
  const plan = (await memoryPlanner(path, flags, stop.signal))(flags.memory);
  const { contextTokens: context, kvCacheBytes: kvCache, prefixCacheBytes: prefixCache } = plan;
  const sizes = { context, kvCache, prefixCache, memory: undefined };
  const { engine, close } = await openEngine(path, { ...flags, ...sizes, isolation }, stop.signal);
  const worker = FleetWorker.open({ fleet: address, engine, id: flags.workerId, onError: reportSeldom() });
  const server = flags.port === undefined ? undefined : await watchable(worker, flags.port, flags.host);
  if (server) console.log(`${worker.id} at ${urlOf(server)}`);
  else console.log(worker.id);
  try {
    const stopped = stop.signal.aborted ? Promise.resolve() : once(stop.signal, "abort");
    const failure = await Promise.race([stopped.then(() => undefined), engine.whenFailed()]);
    if (failure) throw failure;
  } finally {
    await worker.close();
    server?.close();
    await close();
  }
}

/** Answers probes and Prometheus. */
async function watchable(worker: FleetWorker, port: number, host: string): Promise<Server> {
  const server = createServer((request, response) => {
    const state: PublishedWorker = worker.state();
    const [status, body] = answerOf(request.url ?? "", state);
    response.writeHead(status, { "content-type": "text/plain; version=0.0.4; charset=utf-8" }).end(body);
  }).listen(port, host);
  await once(server, "listening");
  server.unref();
  return server;
}

function answerOf(url: string, state: PublishedWorker): readonly [status: number, body: string] {
  const [path = ""] = url.split("?");
  switch (path) {
    case "/livez":
      return [200, "ok\n"];
    case "/readyz":
      return state.isDraining ? [503, "draining\n"] : [200, "ok\n"];
    case "/metrics":
      return [200, workerMetrics(state)];
    default:
      return [404, "not found\n"];
  }
}

// The state of a worker in the text format of Prometheus.

type Metric = readonly [name: string, type: "gauge" | "counter", help: string, of: (state: PublishedWorker) => number];

const METRICS: readonly Metric[] = [
  ["running_sequences", "gauge", "Sequences that hold a place", (one) => one.runningSeqs],
  ["free_sequences", "gauge", "Further sequences that may run", (one) => one.freeSeqs],
  ["step_seconds", "gauge", "Mean duration of recent steps", (one) => one.stepMs / 1000],
  ["pulls_total", "counter", "Requests taken from the queues", (one) => one.pulls],
  ["tokens_total", "counter", "Generated tokens", (one) => one.counters.tokens],
  ["answered_total", "counter", "Requests that ended here", (one) => one.counters.answered],
  ["cancelled_total", "counter", "Requests that were cancelled", (one) => one.counters.cancelled],
  ["resumed_total", "counter", "Requests that another worker had begun", (one) => one.counters.resumed],
  ["released_total", "counter", "Requests handed to other workers", (one) => one.counters.released],
  ["lost_total", "counter", "Requests that others took because this worker was silent", (one) => one.counters.foreign],
  [
    "different_tokens_total",
    "counter",
    "Tokens that differ from those in a request's log; always 0",
    (one) => one.counters.different,
  ],
  ["refused_total", "counter", "Jobs that no front writes", (one) => one.counters.refused],
];

export function workerMetrics(state: PublishedWorker): string {
  const label = `{worker=${JSON.stringify(state.id)}}`;
  const lines = METRICS.flatMap(([name, type, help, of]) => {
    const full = `readme_moe_worker_${name}`;
    return [`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`, `${full}${label} ${of(state)}`];
  });
  return `${lines.join("\n")}\n`;
}
