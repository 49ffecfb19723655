// Options of `serve` that are about the server, not the engine.

import { InvalidArgumentError, Option } from "commander";
import { wholeNumber } from "../options.ts";

export interface ServingFlags {
  readonly port: number;
  readonly host: string;
  readonly name?: string;
  readonly alias?: readonly string[];
  readonly apiKey?: readonly string[];
  readonly maxRequests?: number;
  readonly maxTokens?: number;
  readonly maxBytes?: number;
  readonly maxConnections: number;
  readonly maxClientShare?: number;
  readonly maxPriority?: number;
  readonly maxQueueMs?: number;
  readonly maxRequestMs?: number;
  readonly maxNumSeqs?: number;
  readonly requestsPerMinute?: number;
  readonly tokensPerMinute?: number;
  readonly allowAnyone?: true;
  readonly drainMs: number;
  readonly noticeMs: number;
  readonly trustProxy?: number | string;
  readonly hungMs?: number;
  readonly restart: boolean;
  readonly restartAttempts?: number;
  readonly restartDelayMs?: number;
  readonly vllmMetrics?: true;
  readonly json?: true;
}

export function servingOptions(): readonly Option[] {
  return [
    number("--port <n>", "port to listen on, 0 for any that is free", 0).default(8080),
    new Option("--host <address>", "address to listen on; 0.0.0.0 for all").default("127.0.0.1"),
    new Option("--name <name>", "what clients call the model (default: its folder, file or hub id)"),
    new Option("--alias <name...>", "other names for it"),
    new Option("--api-key <key...>", "keys that clients may come with; better in the environment, as others see this")
      .env("README_MOE_API_KEYS")
      .argParser(keyList),
    number("--max-requests <n>", "requests that are in at once; more get 503 (default: 256)"),
    number("--max-tokens <n>", "tokens that those may come to together (default: 1048576)"),
    number("--max-bytes <n>", "bytes of their bodies together (default: 67108864)"),
    number("--max-connections <n>", "connections at once; more are closed").default(1024),
    new Option(
      "--max-client-share <part>",
      "of all that, what one key, or one address without keys, may have (default: 0.875)",
    ).argParser(numberBetween(0, 1)),
    new Option("--max-priority <n>", "largest priority that clients may give their requests (default: 0)").argParser(
      numberBetween(0, 1e9),
    ),
    number("--max-queue-ms <ms>", "how long a request may wait for its first token (default: 30000)"),
    number("--max-request-ms <ms>", "how long a request may take (default: no limit)"),
    number("--max-num-seqs <n>", "sequences that hold memory at once (default: 32)"),
    number("--requests-per-minute <n>", "that a key, or an address, may send (default: no limit)"),
    number("--tokens-per-minute <n>", "that a key, or an address, may use (default: no limit)"),
    new Option("--allow-anyone", "serve without keys on an address that others can reach"),
    number("--drain-ms <ms>", "how long requests may take to end when the server is to leave", 0).default(30_000),
    number("--notice-ms <ms>", "how long before that /readyz says no already", 0).default(0),
    new Option("--trust-proxy <proxies>", "number of proxies in front, or their addresses").argParser(proxies),
    number("--hung-ms <ms>", "an engine that owes an answer for this long counts as hung (default: 60000)"),
    number(
      "--restart-delay-ms <ms>",
      "wait before an engine that failed is opened again, doubled each time (default: 1000)",
    ),
    number("--restart-attempts <n>", "attempts to open an engine that failed until it stays so (default: 10)"),
    new Option("--no-restart", "leave an engine that failed as it is; /livez then says no"),
    new Option("--vllm-metrics", "have metrics under vLLM's names, too"),
    new Option("--json", "log answers and events as JSON, one a line"),
  ];
}

function numberBetween(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== "" && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Expected a number from ${least} to ${most}.`);
  };
}

function number(flags: string, description: string, least = 1): Option {
  return new Option(flags, description).argParser(wholeNumber(least));
}

/**
 * Several in one text, separated by commas: an environment variable has one text only. What is no key is refused later:
 * a message of commander would show it.
 */
function keyList(text: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), ...text.split(",").map((key) => key.trim())];
}

function proxies(text: string): number | string {
  return /^\d+$/.test(text) ? Number(text) : text;
}
