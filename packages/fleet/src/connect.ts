// Connections that never hang: each command has a time limit, and a connection that does not answer is replaced.

import { Redis, type RedisOptions } from "ioredis";
import { describeValue, messageOf, ReadMeError } from "@readme-moe/core";

/** Time limits of a connection. */
export interface ConnectionLimits {
  /** Longest time for one command. @default 2000 */
  readonly commandMs?: number | undefined;
  /** Longest silence of a connection before it is replaced. @default 3000 */
  readonly silentMs?: number | undefined;
}

const [CONNECT_MS, COMMAND_MS, SILENT_MS, PULSE_MS, MAX_RETRY_MS] = [2000, 2000, 3000, 500, 1000] as const;

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

// Address of the fleet's Valkey or Redis: parsed from a URL, and described without its secrets.

/** A host and a port. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Place of a Valkey or Redis, and how to log in. */
export interface FleetAddress {
  /** The server, or the sentinels that know it. */
  readonly hosts: readonly HostPort[];
  /** Name of the primary that the sentinels watch; `undefined` without sentinels. */
  readonly primaryName: string | undefined;
  readonly isTls: boolean;
  readonly username: string | undefined;
  readonly password: string | undefined;
  readonly database: number;
  /** Password of the sentinels. @default none */
  readonly sentinelPassword?: string | undefined;
}

const PROTOCOLS: Readonly<Record<string, { readonly isTls: boolean; readonly hasSentinels: boolean }>> = {
  redis: { isTls: false, hasSentinels: false },
  rediss: { isTls: true, hasSentinels: false },
  "redis+sentinel": { isTls: false, hasSentinels: true },
  "rediss+sentinel": { isTls: true, hasSentinels: true },
};

const EXPECTED = "redis://host:port, rediss://… for TLS, or redis+sentinel://host:port,host:port/name";

/**
 * Parses the URL of a Valkey or Redis: `redis://user:password@host:port/database`, `rediss://…` with TLS, or
 * `redis+sentinel://user:password@host:port,host:port/primary/database`. User, password and database may be left out.
 *
 * @throws {TypeError | RangeError} naming the option, without the URL's secrets
 */
export function parseFleetUrl(url: string): FleetAddress {
  if (typeof url !== "string") throw new TypeError(`Expected \`fleet\` to be ${EXPECTED}, got ${describeValue(url)}`);
  const parts = /^([a-z+]+):\/\/(?:([^@/]*)@)?([^@/]+)((?:\/[^/?#]*)*)$/.exec(url);
  const protocol = parts?.[1] === undefined ? undefined : PROTOCOLS[parts[1]];
  // The URL itself may hold a password, so no message quotes it.
  if (!parts || !protocol) throw new TypeError(`Expected \`fleet\` to be ${EXPECTED}, got another URL`);
  const [, , login, hosts = "", path = ""] = parts;
  const [first = "", second] = path.split("/").slice(1);
  const { isTls, hasSentinels } = protocol;
  if (hasSentinels && first === "") throw new TypeError("Expected `fleet` to name the primary behind the sentinels");
  return {
    hosts: hosts.split(",").map((host) => parseHost(host, hasSentinels ? 26_379 : 6379)),
    primaryName: hasSentinels ? decoded(first) : undefined,
    isTls,
    ...parseLogin(login),
    database: parseDatabase(hasSentinels ? (second ?? "") : first),
  };
}

function parseHost(text: string, defaultPort: number): HostPort {
  const parts = /^(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(\d{1,5}))?$/.exec(text);
  const host = parts?.[1];
  if (host === undefined) throw new TypeError("Expected the hosts of `fleet` to be host or host:port");
  const port = parts?.[2] === undefined ? defaultPort : Number(parts[2]);
  if (port < 1 || port > 65_535)
    throw new RangeError(`Expected a port of \`fleet\` to be from 1 to 65535, got ${port}`);
  return { host: host.replace(/^\[(.*)\]$/, "$1"), port };
}

function parseLogin(login: string | undefined): Pick<FleetAddress, "username" | "password"> {
  if (login === undefined || login === "") return { username: undefined, password: undefined };
  const colon = login.indexOf(":");
  const [username, password] = colon < 0 ? [login, ""] : [login.slice(0, colon), login.slice(colon + 1)];
  return { username: decoded(username) || undefined, password: decoded(password) || undefined };
}

function parseDatabase(text: string): number {
  if (!/^\d{0,4}$/.test(text)) throw new TypeError("Expected the database of `fleet` to be a number");
  return Number(text);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new TypeError("Expected user, password and name in `fleet` to be percent-encoded");
  }
}

/** Returns the address that an option names, by a URL or as it is. @throws {TypeError | RangeError} on a wrong URL */
export function addressOf(fleet: string | FleetAddress): FleetAddress {
  return typeof fleet === "string" ? parseFleetUrl(fleet) : fleet;
}

/** Describes an address for logs and errors: protocol, hosts and name, never user or password. */
export function describeAddress({ hosts, primaryName, isTls, database }: FleetAddress): string {
  const protocol = `${isTls ? "rediss" : "redis"}${primaryName === undefined ? "" : "+sentinel"}`;
  const places = hosts.map(({ host, port }) => `${host.includes(":") ? `[${host}]` : host}:${port}`).join(",");
  const path = [primaryName, database === 0 ? undefined : String(database)].filter((part) => part !== undefined);
  return `${protocol}://${[places, ...path].join("/")}`;
}

// Failures of the connection, without the secrets that a driver's errors may carry.

/** Creates the error of a Valkey or Redis that does not answer. */
export function unreachable(address: FleetAddress, what: string, cause?: unknown): ReadMeError {
  const text = `The fleet's ${describeAddress(address)} does not answer (${what})`;
  return new ReadMeError("ERR_FLEET_UNREACHABLE", text, {
    cause: cause === undefined ? undefined : bare(cause, address),
  });
}

/** Copies an error's name and message. A driver's error has the command with its arguments, such as a password. */
function bare(error: unknown, { password, sentinelPassword }: FleetAddress): Error {
  const name = error instanceof Error ? error.name : "Error";
  const message = messageOf(error);
  const secrets = [password, sentinelPassword].filter((secret) => secret !== undefined);
  const clean = secrets.reduce((text, secret) => text.replaceAll(secret, "…"), message);
  return Object.assign(new Error(clean), { name });
}

/** The fleet's Valkey or Redis, and who hears of its failures. */
export interface FleetPlace {
  /** URL of the fleet's Valkey or Redis. */
  readonly fleet: string | FleetAddress;
  /** Called with each failure that is survived. Without secrets. */
  readonly onError?: ((error: Error) => void) | undefined;
}

/** Options of fronts and workers. */
export interface FleetMemberOptions extends FleetPlace {
  readonly limits?: ConnectionLimits | undefined;
}
