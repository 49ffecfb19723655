// Connections that never hang: each command has a time limit, and a connection that does not answer is replaced.

import { Redis, type RedisOptions } from "ioredis";
import type { FleetAddress } from "./address.ts";
import { unreachable } from "./errors.ts";

/** Time limits of a connection. */
export interface ConnectionLimits {
  /** Longest time for one command. @default 2000 */
  readonly commandMs?: number | undefined;
  /** Longest silence of a connection before it is replaced. @default 3000 */
  readonly silentMs?: number | undefined;
}

const [CONNECT_MS, COMMAND_MS, SILENT_MS, PULSE_MS, MAX_RETRY_MS] = [2000, 2000, 3000, 500, 1000] as const;

/** Receives the messages of channels. */
type OnMessage = (channel: string, message: string) => void;

/** A connection with its watchdog. */
export interface Connection {
  readonly redis: Redis;
  /** Listens to channels until the connection is closed, also after reconnections. No other command may follow. */
  readonly listen: (channels: readonly string[], onMessage: OnMessage) => void;
  /** Ends the connection at once; commands under way fail. */
  readonly close: () => void;
}

/**
 * Opens a connection, and keeps it open: it connects again after any failure, to the primary that the sentinels name.
 *
 * @param onError - called with each failure of the connection, without secrets
 */
export function openConnection(
  address: FleetAddress,
  onError: (error: Error) => void = () => undefined,
  { commandMs = COMMAND_MS, silentMs = SILENT_MS }: ConnectionLimits = {},
): Connection {
  const redis = new Redis(redisOptions(address, commandMs));
  const report = (what: string, error: unknown): void => onError(unreachable(address, what, error));
  redis.on("error", (error: unknown) => report("connection", error));
  const stop = watch(redis, silentMs);
  const listen: Connection["listen"] = (channels, onMessage) => {
    redis.on("message", onMessage);
    subscribe(redis, channels, (error) => report("subscription", error));
  };
  const close = (): void => {
    stop();
    redis.disconnect();
  };
  return { redis, listen, close };
}

function redisOptions(address: FleetAddress, commandMs: number): RedisOptions {
  const { hosts, primaryName, isTls, username, password, database, sentinelPassword } = address;
  const tls = isTls ? {} : undefined;
  const shared: RedisOptions = {
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    db: database,
    connectTimeout: CONNECT_MS,
    commandTimeout: commandMs,
    // Nobody would own the promises with which ioredis subscribes again: one that fails ends the process.
    autoResubscribe: false,
    // Its commands are answered before those that a reconnection is for.
    disableClientInfo: true,
    keepAlive: 5000,
    // BullMQ requires that commands are not dropped after some attempts; their time limit ends them here.
    maxRetriesPerRequest: null,
    retryStrategy: (attempt) => Math.min(50 * 2 ** Math.min(attempt, 10), MAX_RETRY_MS),
    // A primary that has become a replica refuses writes: the sentinels know the new one.
    reconnectOnError: ({ message }) => (/^(READONLY|LOADING|MASTERDOWN)/.test(message) ? 2 : false),
    ...(tls && { tls }),
  };
  const [{ host, port } = { host: "127.0.0.1", port: 6379 }] = hosts;
  if (primaryName === undefined) return { ...shared, host, port };
  return {
    ...shared,
    sentinels: hosts.map((sentinel) => ({ ...sentinel })),
    name: primaryName,
    ...(sentinelPassword !== undefined && { sentinelPassword }),
    sentinelCommandTimeout: commandMs,
    sentinelRetryStrategy: (attempt) => Math.min(50 * 2 ** Math.min(attempt, 10), MAX_RETRY_MS),
    ...(tls && { sentinelTLS: tls, enableTLSForSentinelMode: true }),
  };
}

/** Subscribes to channels each time that a connection is ready, again and again until that is confirmed. */
function subscribe(redis: Redis, channels: readonly string[], onError: (error: unknown) => void): void {
  let timer: NodeJS.Timeout | undefined;
  const attempt = (): void => {
    clearTimeout(timer);
    // A connection that is made again is ready again.
    if (redis.status !== "ready") return;
    redis.subscribe(...channels).catch((error: unknown) => {
      if (redis.status === "end") return;
      onError(error);
      clearTimeout(timer);
      timer = setTimeout(attempt, PULSE_MS).unref();
    });
  };
  redis.on("ready", attempt);
}

/**
 * Replaces a connection that has been silent for too long. A server that is frozen, and a network that drops packets,
 * leave the socket open, and no command on it would ever be answered.
 */
function watch(redis: Redis, silentMs: number): () => void {
  /** Time at which the oldest ping since the last answer was sent. */
  let askedMs: number | undefined;
  let isAsking = false;
  const timer = setInterval(() => {
    const nowMs = performance.now();
    if (redis.status !== "ready") {
      askedMs = undefined;
      return;
    }
    askedMs ??= nowMs;
    if (nowMs - askedMs > silentMs) {
      askedMs = undefined;
      destroySocket(redis);
    } else if (!isAsking) {
      isAsking = true;
      // The answer to a ping that has reached its time limit is not heard, but that to the next one is.
      void redis
        .ping()
        .then(
          () => (askedMs = undefined),
          () => undefined,
        )
        .finally(() => (isAsking = false));
    }
  }, PULSE_MS);
  timer.unref();
  return () => clearInterval(timer);
}

/** Destroys the socket of a connection. `disconnect` would wait for the other side to close it. */
function destroySocket(redis: Redis): void {
  const { stream } = redis as unknown as { readonly stream?: { readonly destroy: () => void } };
  if (stream) stream.destroy();
  else redis.disconnect(true);
}
