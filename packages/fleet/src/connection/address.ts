// Address of the fleet's Valkey or Redis: parsed from a URL, and described without its secrets.

import { describeValue } from "@readme-moe/core";

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
  /** Number of the database. */
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
