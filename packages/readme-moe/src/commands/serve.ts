import { once } from "node:events";
import { ReadMeEmitter } from "@readme-moe/core";
import {
  answerErrors,
  answerNotFound,
  isLoopback,
  localHostsOnly,
  readMe,
  ServedModels,
  type CorsOptions,
  type RestartOptions,
  type BatchesOptions,
} from "@readme-moe/express";
import { resolveStateFolder } from "@readme-moe/model";
import { Command } from "commander";
import express, { type Express } from "express";
import { openLimits, type OpenedLimits, reportSeldom } from "../fleet/open-front.ts";
import { fleetOption, type FleetFlags, addOptions, engineFlag, type EngineFlags, engineOptions } from "../options.ts";
import { MODEL_ARGUMENT } from "../models.ts";
import { noteServer } from "../running/server-notes.ts";
import { EventLog } from "../serving/event-log.ts";
import { closeServer, listen, stopSignals, urlOf } from "../serving/http-server.ts";
import { collectWhenIdle } from "../serving/idle-memory.ts";
import { aliasesOf, openModels, type ServerModels } from "../serving/open-models.ts";
import { servingOptions, type ServingFlags } from "../serving/serving-flags.ts";

interface ServeFlags extends EngineFlags, ServingFlags, FleetFlags {}

export function serveCommand(signal: AbortSignal): Command {
  const command = new Command("serve")
    .summary("serve models over HTTP, with the APIs of OpenAI, Anthropic and Ollama")
    .description(
      "Serves models with the APIs of OpenAI and Anthropic under /v1, with --ollama that of Ollama under /api, and with " +
        "/health, /livez, /readyz, /metrics and /version. One model is open from the start to the end. Of several, each is " +
        "opened when a request asks for it, and closed when its memory is needed or no request comes. On SIGTERM or " +
        "Ctrl-C it accepts no more requests, completes the running ones, and exits; a second one ends it at once.",
    )
    .argument("<model...>", MODEL_ARGUMENT);
  const fleet = fleetOption("let the workers of this fleet run the model, and hold no weights: redis://host:port");
  addOptions(command, ...servingOptions(), ...engineOptions(), engineFlag("controlTokensInMessages"), fleet);
  return command.action((paths: string[], flags: ServeFlags) => runServer(paths, flags, signal));
}

/** Serves until a signal stops the server, or a model cannot be opened at the start. */
async function runServer(paths: readonly string[], flags: ServeFlags, interrupted: AbortSignal): Promise<void> {
  checkReach(flags);
  using stop = stopSignals(interrupted);
  const giveUp = new AbortController();
  const opening = openModels(paths, flags, AbortSignal.any([stop.signal, giveUp.signal]));
  try {
    await serve(opening, flags, stop.signal);
  } finally {
    giveUp.abort();
    await opening.close();
  }
}

async function serve(
  { names, sources, ready, options }: ServerModels,
  flags: ServeFlags,
  stop: AbortSignal,
): Promise<void> {
  const events = new ReadMeEmitter();
  const log = new EventLog(flags.json ?? false);
  const [name = ""] = names;
  using limits = await openLimits(flags, events);
  const batches = await batchesOf(flags);
  const naming = { aliases: aliasesOf(flags.alias, names), defaultModel: name };
  log.listen(events);
  // Requests that arrive before a model is there are answered that it is loading.
  const models = new ServedModels(sources, { ...naming, ...options, restart: restartOf(flags), events });
  models.watch((model, served) => log.watch(model, served));
  const server = await listen(appOver(models, { events, limits, batches, flags }), flags);
  const stopCollecting = collectWhenIdle(() => models.numLeases > 0);
  let forget: (() => Promise<void>) | undefined;
  try {
    const url = urlOf(server);
    log.printAddress(url, names);
    const all = names.length > 1 ? { models: names } : {};
    const note = { pid: process.pid, url, model: name, ...all, sinceMs: Date.now() };
    forget = await noteServer(resolveStateFolder(), { ...note, hasEngineInside: flags.isolation === "thread" });
    await Promise.race([aborted(stop), ready.then(() => aborted(stop))]);
    const numRequests = models.numLeases;
    log.print("server:draining", `stopping; running requests: ${numRequests}`, { numRequests });
  } finally {
    const { drainMs: deadlineMs, noticeMs } = flags;
    const numRequests = await models.drain({ deadlineMs, noticeMs: stop.aborted ? noticeMs : 0 });
    await closeServer(server);
    await forget?.();
    stopCollecting();
    log.close();
    if (numRequests > 0) {
      log.print("server:ended", `requests that were ended at the deadline: ${numRequests}`, { numRequests });
    }
  }
}

function restartOf({ restart, restartAttempts, restartDelayMs }: ServeFlags): false | RestartOptions {
  if (!restart) return false;
  const longestMs = restartDelayMs === undefined ? undefined : Math.max(restartDelayMs, 60_000);
  return { maxAttempts: restartAttempts, firstDelayMs: restartDelayMs, maxDelayMs: longestMs };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, "abort");
}

/** Services beside the models, and flags. */
interface AppParts {
  readonly events: ReadMeEmitter;
  readonly limits: OpenedLimits;
  readonly batches: BatchesOptions | undefined;
  readonly flags: ServeFlags;
}

function appOver(models: ServedModels, { events, limits, batches, flags }: AppParts): Express {
  const { hungMs, maxRequests, maxTokens, maxBytes, maxClientShare, maxQueueMs, maxRequestMs } = flags;
  const app = express().disable("x-powered-by");
  if (flags.trustProxy !== undefined) app.set("trust proxy", flags.trustProxy);
  if (flags.apiKey === undefined && !flags.allowAnyone) app.use(localHostsOnly);
  app.use(
    readMe({
      models,
      events,
      keys: flags.apiKey,
      experts: { operatorKeys: flags.operatorKey, folder: flags.expertsFolder },
      requestsPerMinute: limits.requestsPerMinute,
      tokensPerMinute: limits.tokensPerMinute,
      maxPriority: flags.maxPriority,
      cacheSharing: flags.cacheSharing,
      cors: corsOf(flags),
      batches,
      ollama: flags.ollama,
      toolsStrict: flags.toolsStrict,
      admission: { maxRequests, maxTokens, maxBytes, maxClientShare, maxQueueMs, maxRequestMs },
      hungMs,
      vllmAliases: flags.vllmMetrics,
    }),
  );
  return app.use(answerNotFound, answerErrors);
}

/** Batches, which the fronts of a fleet share. */
async function batchesOf({ batches: folder, fleet }: ServeFlags): Promise<BatchesOptions | undefined> {
  if (folder === undefined) return undefined;
  const onError = reportSeldom();
  if (fleet === undefined) return { folder, onError };
  const { openBatchQueue } = await import("@readme-moe/fleet");
  // The front's own connections report the failures of Valkey.
  return { folder, onError, queue: openBatchQueue({ fleet, onError: () => undefined }) };
}

function corsOf({ corsOrigin: origins }: ServeFlags): CorsOptions | undefined {
  return origins && { origins: origins.includes("*") ? "*" : origins };
}

/** @throws {TypeError} when anyone in the network could use the model, and no flag allows it */
function checkReach({ host, apiKey, allowAnyone }: ServeFlags): void {
  if (apiKey !== undefined || allowAnyone || isLoopback(host)) return;
  throw new TypeError(
    `Expected keys (README_MOE_API_KEYS, or --api-key) with --host ${host}, which other machines can reach; ` +
      "--allow-anyone serves without keys",
  );
}
