// `readme-moe serve`, from its first line to its last.

import { once } from "node:events";
import { basename, resolve } from "node:path";
import { ReadMeEmitter } from "@readme-moe/core";
import {
  answerErrors,
  answerNotFound,
  isLoopback,
  localHostsOnly,
  readMe,
  ServedModels,
  type RestartOptions,
} from "@readme-moe/express";
import express, { type Express } from "express";
import type { ServeFlags } from "../commands/serve.ts";
import { openEngine, type OpenedEngine } from "../engine.ts";
import { EventLog } from "./event-log.ts";
import { collectWhenIdle } from "./idle-memory.ts";
import { closeServer, listen, urlOf } from "./http-server.ts";
import { stopSignals } from "./stop-signals.ts";

/** Serves until it is told to leave, or the model cannot be opened. */
export async function runServer(path: string, flags: ServeFlags, interrupted: AbortSignal): Promise<void> {
  checkReach(flags);
  using stop = stopSignals(interrupted);
  const giveUp = new AbortController();
  const isUnwanted = AbortSignal.any([stop.signal, giveUp.signal]);
  const opening = openEngine(path, flags, isUnwanted, { maxNumSeqs: flags.maxNumSeqs });
  try {
    await serve(flags.name ?? basename(resolve(path)).replace(/\.gguf$/i, ""), opening, flags, stop.signal);
  } finally {
    giveUp.abort();
    await opening.then(
      ({ close }) => close(),
      () => undefined,
    );
  }
}

async function serve(
  name: string,
  opening: Promise<OpenedEngine>,
  flags: ServeFlags,
  stop: AbortSignal,
): Promise<void> {
  const events = new ReadMeEmitter();
  const log = new EventLog(flags.json ?? false);
  const aliases = Object.fromEntries((flags.alias ?? []).map((alias) => [alias, name]));
  // Whoever asks before it is open is told that it loads.
  const engine = opening.then((opened) => opened.engine);
  engine.catch(() => undefined);
  const models = new ServedModels({ [name]: engine }, { aliases, restart: restartOf(flags), events });
  log.listen(events);
  models.watch((model, served) => log.watch(model, served));
  const server = await listen(appOver(models, events, flags), flags);
  const stopCollecting = collectWhenIdle(() => models.numLeases > 0);
  try {
    log.tellAddress(urlOf(server), name);
    await Promise.race([aborted(stop), engine.then(() => aborted(stop))]);
    log.tell("server:draining", `leaving; requests under way: ${models.numLeases}`, { numRequests: models.numLeases });
  } finally {
    const { drainMs: deadlineMs, noticeMs } = flags;
    const numEnded = await models.drain({ deadlineMs, noticeMs: stop.aborted ? noticeMs : 0 });
    await closeServer(server);
    stopCollecting();
    log.close();
    if (numEnded > 0) log.tell("server:ended", `requests that were ended: ${numEnded}`, { numRequests: numEnded });
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

function appOver(models: ServedModels, events: ReadMeEmitter, flags: ServeFlags): Express {
  const { hungMs, maxRequests, maxTokens, maxBytes, maxClientShare, maxQueueMs, maxRequestMs } = flags;
  const app = express().disable("x-powered-by");
  if (flags.trustProxy !== undefined) app.set("trust proxy", flags.trustProxy);
  if (flags.apiKey === undefined && !flags.allowAnyone) app.use(localHostsOnly);
  app.use(
    readMe({
      models,
      events,
      keys: flags.apiKey,
      requestsPerMinute: flags.requestsPerMinute,
      tokensPerMinute: flags.tokensPerMinute,
      maxPriority: flags.maxPriority,
      admission: { maxRequests, maxTokens, maxBytes, maxClientShare, maxQueueMs, maxRequestMs },
      hungMs,
      vllmAliases: flags.vllmMetrics,
    }),
  );
  return app.use(answerNotFound, answerErrors);
}

/** @throws {TypeError} when everybody in the network could use the model, and nobody has said that they may */
function checkReach({ host, apiKey, allowAnyone }: ServeFlags): void {
  if (apiKey !== undefined || allowAnyone || isLoopback(host)) return;
  throw new TypeError(
    `Expected keys (README_MOE_API_KEYS, or --api-key) with --host ${host}, which others can reach; --allow-anyone does without`,
  );
}
