// A real Valkey or Redis for tests: processes on free ports, alone or with a replica and sentinels.

import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { freePort } from "../free-port.ts";

const NAMES = ["valkey-server", "redis-server"] as const;

/** Program of the server; nothing where none is installed. */
const SERVER: string | undefined = NAMES.find((name) => spawnSync(name, ["--version"]).status === 0);

/** Why tests of the fleet cannot run here; nothing where they can. */
export const noServer: string | undefined = SERVER === undefined ? `no ${NAMES.join(" or ")} is installed` : undefined;

/** A running server. */
export interface ValkeyServer {
  readonly port: number;
  readonly url: string;
  readonly child: ChildProcess;
  /** Asks the server directly, whatever it does. */
  readonly redis: Redis;
  readonly stop: () => Promise<void>;
}

/** Options of a server. */
export interface ValkeyOptions {
  /** Port. @default a free one */
  readonly port?: number;
  /** More arguments, such as `--requirepass secret`. */
  readonly args?: readonly string[];
  /** Lines of a configuration file, which sentinels rewrite. */
  readonly config?: readonly string[];
  readonly isSentinel?: boolean;
  readonly password?: string;
}

/** Starts a server that keeps nothing on disk, and waits until it answers. */
export async function startValkey(options: ValkeyOptions = {}): Promise<ValkeyServer> {
  for (;;) {
    const port = options.port ?? (await freePort());
    const server = await startOn(port, options);
    if (server) return server;
    // Another process was faster to take the port.
    if (options.port !== undefined) throw new Error(`Expected a server on port ${port}`);
  }
}

/** @returns nothing where the server has ended, since its port is taken */
async function startOn(port: number, options: ValkeyOptions): Promise<ValkeyServer | undefined> {
  if (SERVER === undefined) throw new Error(`Expected a server: ${noServer}`);
  const { args = [], config = [], isSentinel = false, password } = options;
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-valkey-"));
  const file = join(folder, "server.conf");
  await writeFile(file, `${[`port ${port}`, "bind 127.0.0.1", `dir ${folder}`, ...config].join("\n")}\n`);
  const kept = isSentinel ? ["--sentinel"] : ["--save", "", "--appendonly", "no"];
  const child = spawn(SERVER, [file, ...kept, ...args], { stdio: "ignore" });
  const ended = once(child, "close");
  // A run of tests that fails leaves nothing behind.
  const onExit = (): boolean => child.kill("SIGKILL");
  process.once("exit", onExit);
  const redis = new Redis({ port, host: "127.0.0.1", lazyConnect: true, retryStrategy: () => 20, password });
  redis.on("error", () => undefined);
  await redis.connect().catch(() => undefined);
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null;
  const isOwn = async (): Promise<boolean> =>
    (await redis.info("server").catch(() => "")).includes(`process_id:${child.pid}\r\n`);
  while (!isOver() && !(await isOwn()));
  const stop = async (): Promise<void> => {
    redis.disconnect();
    child.kill("SIGKILL");
    await ended;
    process.off("exit", onExit);
    await rm(folder, { recursive: true, force: true });
  };
  if (isOver()) {
    await stop();
    return undefined;
  }
  const login = password === undefined ? "" : `:${encodeURIComponent(password)}@`;
  return { port, url: `redis://${login}127.0.0.1:${port}`, child, redis, stop };
}

/** A primary with a replica, watched by three sentinels. */
export interface ValkeyCluster {
  readonly url: string;
  readonly sentinels: readonly ValkeyServer[];
  /** Server that the sentinels name. */
  readonly primary: () => Promise<ValkeyServer>;
  readonly servers: () => readonly ValkeyServer[];
  /** Waits until the primary has a replica that all sentinels know. */
  readonly settled: () => Promise<void>;
  /** Starts a server again on the port of one that was killed; it becomes a replica. */
  readonly restart: (port: number) => Promise<void>;
  readonly stop: () => Promise<void>;
}

const PRIMARY_NAME = "fleet";
const POLL_MS = 20;

/** Starts two servers and three sentinels that promote within about two seconds. */
export async function startCluster(): Promise<ValkeyCluster> {
  const first = await startValkey();
  const follow = ["--replicaof", "127.0.0.1", String(first.port)];
  const servers = new Map([first, await startValkey({ args: follow })].map((server) => [server.port, server]));
  const config = [
    `sentinel monitor ${PRIMARY_NAME} 127.0.0.1 ${first.port} 2`,
    `sentinel down-after-milliseconds ${PRIMARY_NAME} 1000`,
    `sentinel failover-timeout ${PRIMARY_NAME} 3000`,
  ];
  const sentinels = await Promise.all([1, 2, 3].map(() => startValkey({ isSentinel: true, config })));
  const primaryPort = async (): Promise<number> => {
    const [sentinel] = sentinels;
    const named = (await sentinel?.redis.call("SENTINEL", "get-master-addr-by-name", PRIMARY_NAME)) as string[];
    return Number(named[1]);
  };
  // Sentinels find each other and the replica through the primary; before that they promote nobody.
  const settled = async (): Promise<void> => {
    for (const { redis } of sentinels) {
      for (; ; await sleep(POLL_MS)) {
        const fields = (await redis.call("SENTINEL", "master", PRIMARY_NAME)) as string[];
        const valueOf = (name: string): string | undefined => fields[fields.indexOf(name) + 1];
        const replicas = (await redis.call("SENTINEL", "replicas", PRIMARY_NAME)) as string[][];
        const isFollowing = replicas.some((replica) => replica[replica.indexOf("master-link-status") + 1] === "ok");
        if (isFollowing && valueOf("flags") === "master" && valueOf("num-other-sentinels") === "2") break;
      }
    }
  };
  await settled();
  return {
    settled,
    url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(",")}/${PRIMARY_NAME}`,
    sentinels,
    primary: async () => {
      const server = servers.get(await primaryPort());
      if (!server) throw new Error("Expected the sentinels to name one of the servers");
      return server;
    },
    servers: () => [...servers.values()],
    restart: async (port) => {
      await servers.get(port)?.stop();
      const primary = await primaryPort();
      const args = primary === port ? [] : ["--replicaof", "127.0.0.1", String(primary)];
      servers.set(port, await startValkey({ port, args }));
    },
    stop: async () => {
      await Promise.all([...sentinels, ...servers.values()].map((server) => server.stop()));
    },
  };
}
