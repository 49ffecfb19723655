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
import { modelName, resolveStateFolder } from "@readme-moe/model";
import { Command } from "commander";
import express, { type Express } from "express";
import { readTextData } from "../data-files.ts";
import { openFront, reportSeldom, type OpenedFront } from "../fleet/open-front.ts";
import { fleetOption, type FleetFlags, addOptions, engineFlag, type EngineFlags, engineOptions } from "../options.ts";
import { openLimits, type OpenedLimits } from "../fleet/shared-limits.ts";
import { MODEL_ARGUMENT, openEngine, type OpenedEngine } from "../models.ts";
import { noteServer } from "../running/server-notes.ts";
import { EventLog } from "../serving/event-log.ts";
import { closeServer, listen, stopSignals, urlOf } from "../serving/http-server.ts";
import { collectWhenIdle } from "../serving/idle-memory.ts";
import { servingOptions, type ServingFlags } from "../serving/serving-flags.ts";

interface ServeFlags extends EngineFlags, ServingFlags, FleetFlags {}

/** An engine in this process, or a front of a fleet. */
type Opened = OpenedEngine | OpenedFront;

export function serveCommand(signal: AbortSignal): Command {
  const command = new Command("serve")
    .summary("serve a model over HTTP, with the APIs of OpenAI, Anthropic and Ollama")
    .description(
      "Serves a model with the APIs of OpenAI and Anthropic under /v1, with --ollama that of Ollama under /api, and with " +
        "/health, /livez, /readyz, /metrics and /version. On SIGTERM or Ctrl-C it accepts no more requests, completes the " +
        "running ones, and exits; a second one ends it at once.",
    )
    .argument("<model>", MODEL_ARGUMENT);
  const fleet = fleetOption("let the workers of this fleet run the model, and hold no weights: redis://host:port");
  addOptions(command, ...servingOptions(), ...engineOptions(), engineFlag("controlTokensInMessages"), fleet);
  return command.action((path: string, flags: ServeFlags) => runServer(path, flags, signal));
}

/** Serves until a signal stops the server, or the model cannot be opened. */
async function runServer(path: string, flags: ServeFlags, interrupted: AbortSignal): Promise<void> {
  checkReach(flags);
  using stop = stopSignals(interrupted);
  const giveUp = new AbortController();
  const isUnwanted = AbortSignal.any([stop.signal, giveUp.signal]);
  const { fleet } = flags;
  const opening: Promise<Opened> =
    fleet === undefined ? openKeeping(path, flags, isUnwanted) : openFront(path, { ...flags, fleet }, isUnwanted);
  try {
    await serve(flags.name ?? modelName(path), opening, flags, stop.signal);
  } finally {
    giveUp.abort();
    await opening.then(
      ({ close }) => close(),
      () => undefined,
    );
  }
}

/** Opens an engine that keeps the prompts of `--keep-prompt`. */
async function openKeeping(path: string, flags: ServeFlags, signal: AbortSignal): Promise<OpenedEngine> {
  const { keepPrompt = [] } = flags;
  const prompts = await Promise.all(keepPrompt.map((file) => readTextData(file)));
  // Operators may add experts, which a budget is for, to a model without any.
  const own = flags.expertsFolder === undefined ? flags : { lora: [], ...flags };
  const opened = await openEngine(path, own, signal);
  const { engine, close } = opened;
  engine.events.on("prompt:kept", ({ refusal, saveFailure }) => {
    if (refusal !== undefined) console.error(`note: a saved prompt was not used: ${refusal}`);
    if (saveFailure !== undefined) console.error(`note: a prompt was not saved: ${saveFailure}`);
  });
  try {
    for (const content of prompts) {
      const messages = [{ role: "system", content }];
      await engine.keepPrompt(engine.info.hasChatTemplate ? { messages } : content, { signal });
    }
    return opened;
  } catch (error) {
    await close();
    throw error;
  }
}

async function serve(name: string, opening: Promise<Opened>, flags: ServeFlags, stop: AbortSignal): Promise<void> {
  const events = new ReadMeEmitter();
  const log = new EventLog(flags.json ?? false);
  const aliases = Object.fromEntries((flags.alias ?? []).map((alias) => [alias, name]));
  // Requests that arrive before it is open are answered that the model is loading.
  const engine = opening.then((opened) => opened.engine);
  engine.catch(() => undefined);
  using limits = await openLimits(flags, events);
  const batches = await batchesOf(flags);
  const models = new ServedModels({ [name]: engine }, { aliases, restart: restartOf(flags), events });
  log.listen(events);
  models.watch((model, served) => log.watch(model, served));
  const server = await listen(appOver(models, { events, limits, batches, flags }), flags);
  const stopCollecting = collectWhenIdle(() => models.numLeases > 0);
  let forget: (() => Promise<void>) | undefined;
  try {
    const url = urlOf(server);
    log.printAddress(url, name);
    const note = { pid: process.pid, url, model: name, sinceMs: Date.now() };
    forget = await noteServer(resolveStateFolder(), { ...note, hasEngineInside: flags.isolation === "thread" });
    await Promise.race([aborted(stop), engine.then(() => aborted(stop))]);
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
