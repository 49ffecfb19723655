// Options of `serve` for the server; those for the engine are in `options.ts`.

import { parseDurationMs } from "@readme-moe/core";
import type { CacheSharing } from "@readme-moe/express";
import { InvalidArgumentError, Option } from "commander";
import { numberBetween, portNumber, wholeNumber, engineFlag } from "../options.ts";

export interface ServingFlags {
  readonly port: number;
  readonly host: string;
  readonly name?: string;
  readonly alias?: readonly string[];
  readonly apiKey?: readonly string[];
  readonly operatorKey?: readonly string[];
  readonly expertsFolder?: string;
  readonly maxRequests?: number;
  readonly maxTokens?: number;
  readonly maxBytes?: number;
  readonly maxConnections: number;
  readonly maxClientShare?: number;
  readonly maxPriority?: number;
  readonly cacheSharing?: CacheSharing;
  readonly maxQueueMs?: number;
  readonly maxRequestMs?: number;
  readonly batches?: string;
  readonly keepPrompt?: readonly string[];
  readonly keepAlive?: number;
  readonly requestsPerMinute?: number;
  readonly tokensPerMinute?: number;
  readonly allowAnyone?: true;
  readonly corsOrigin?: readonly string[];
  readonly drainMs: number;
  readonly noticeMs: number;
  readonly trustProxy?: number | string;
  readonly restart: boolean;
  readonly restartAttempts?: number;
  readonly restartDelayMs?: number;
  readonly ollama?: true;
  readonly toolsStrict?: true;
  readonly vllmMetrics?: true;
  readonly json?: true;
}

export function servingOptions(): readonly Option[] {
  return [
    new Option("--port <n>", "port to listen on; 0 for any free one").argParser(portNumber).default(8080),
    new Option("--host <address>", "address to listen on; 0.0.0.0 for all").default("127.0.0.1"),
    new Option("--name <name>", "name of the model for clients (default: the last part of its path or name)"),
    new Option("--alias <name...>", "other names of the (first) model; name=model for another one"),
    new Option(
      "--keep-alive <duration>",
      "time without requests after which a model is closed, such as 5m or 0; never keeps it open (default: 5m for several models, never for one)",
    ).argParser(keepAlive),
    new Option(
      "--api-key <key...>",
      "keys of clients; other users can see them here, better set the environment variable",
    )
      .env("README_MOE_API_KEYS")
      .argParser(keyList),
    new Option(
      "--operator-key <key...>",
      "keys that may load and unload loras, with --experts-folder; better set the environment variable",
    )
      .env("README_MOE_OPERATOR_KEYS")
      .argParser(keyList),
    new Option("--experts-folder <folder>", "folder below which operators may load experts; needs --operator-key"),
    number("--max-requests <n>", "most requests that are admitted at once; further ones get 503 (default: 256)"),
    number("--max-tokens <n>", "most tokens of admitted requests together (default: 1048576)"),
    number("--max-bytes <n>", "most bytes of the bodies of admitted requests together (default: 67108864)"),
    number("--max-connections <n>", "most connections at once; further ones are closed").default(1024),
    new Option(
      "--max-client-share <part>",
      "share of --max-requests, --max-tokens and --max-bytes for one key, or address where there are no keys (default: 0.875)",
    ).argParser(numberBetween(0, 1)),
    new Option("--max-priority <n>", "largest priority in clients' requests (default: 0)").argParser(
      numberBetween(0, 1e9),
    ),
    new Option(
      "--cache-sharing <who>",
      "share cached beginnings of prompts, and drafts from answers, between all clients or not (default: client where there are keys)",
    ).choices(["client", "all"]),
    number("--max-queue-ms <ms>", "longest wait until a prompt begins to be read, then 408 (default: 300000)"),
    number("--max-request-ms <ms>", "longest duration of a request, then 408 (default: no limit)"),
    engineFlag("maxNumSeqs"),
    new Option("--batches <folder>", "add /v1/files and /v1/batches, and keep files and batches in this folder"),
    new Option(
      "--keep-prompt <file...>",
      "text files with prompts whose keys and values stay in memory; of models with a chat template, system messages",
    ),
    engineFlag("prefixDiskBytes", { default: "4GB" }),
    engineFlag("savedPromptsFolder"),
    engineFlag("savedPromptsBytes"),
    number(
      "--requests-per-minute <n>",
      "most requests per minute of a key, or an address where there are no keys (default: no limit)",
    ),
    number(
      "--tokens-per-minute <n>",
      "most tokens per minute of a key, or an address where there are no keys (default: no limit)",
    ),
    new Option("--allow-anyone", "serve without keys on an address that other machines can reach"),
    new Option("--cors-origin <origin...>", "origins of web pages that may call the API from a browser; * for all"),
    number("--drain-ms <ms>", "longest time for running requests when the server stops", 0).default(30_000),
    number(
      "--notice-ms <ms>",
      "time that /readyz fails before the server refuses requests and --drain-ms begins",
      0,
    ).default(0),
    new Option("--trust-proxy <proxies>", "number of proxies in front, or their addresses").argParser(proxies),
    engineFlag("hungMs"),
    number("--restart-delay-ms <ms>", "wait before a failed engine is opened again, doubled each time (default: 1000)"),
    number("--restart-attempts <n>", "most attempts to open a failed engine again (default: 10)"),
    new Option("--no-restart", "do not open a failed engine again; /livez then fails"),
    new Option("--tools-strict", "bind each call of a tool to its schema; requests with other schemas get 400"),
    new Option("--ollama", "add Ollama's API below /api"),
    new Option("--vllm-metrics", "add metrics under vLLM's names"),
    new Option("--json", "log answers and events as JSON, one per line"),
  ];
}

function number(flags: string, description: string, least = 1): Option {
  return new Option(flags, description).argParser(wholeNumber(least));
}

/**
 * Parses keys separated by commas, as in an environment variable. Wrong keys are refused later, since a message of
 * commander would show them.
 */
function keyList(text: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), ...text.split(",").map((key) => key.trim())];
}

/** Parses a duration as Ollama's `keep_alive`, into ms. */
function keepAlive(text: string): number {
  const ms = text === "never" ? Infinity : parseDurationMs(text);
  if (ms !== undefined) return ms;
  throw new InvalidArgumentError("Expected a duration such as 5m, 30s or 1h30m, a number of seconds, or never.");
}

function proxies(text: string): number | string {
  return /^\d+$/.test(text) ? Number(text) : text;
}
