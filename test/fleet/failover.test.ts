// The primary of Valkey dies or stands still while a fleet works: everybody goes on, or is told, and nothing hangs.

import { ReadMeError } from "@readme-moe/core";
import { openPromptReader, type ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, FleetWorker, readFleetStatus } from "@readme-moe/fleet";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { percentile } from "../../bench/kit/statistics.ts";
import { leftovers } from "../support/fleet/leftovers.ts";
import { readAnswer, type Answer } from "../support/fleet/requests.ts";
import { noServer, startCluster, type ValkeyCluster } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { openPocket } from "../support/pocket-engine.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of Valkey's failover did not run: ${noServer}`);

/** The fifty of `npm run test:fleet`, and fewer in the suite. */
const NUM_FAILOVERS = Number(process.env["README_MOE_FLEET_FAILOVERS"] ?? 1);
/** Streams that are under way all the time. */
const NUM_AT_ONCE = 4;
/** Longest outage of the long run, which has the machine to itself. */
const LONGEST_OUTAGE_MS = 15_000;
/** Errors that callers may get meanwhile. */
const TOLD = ["ERR_FLEET_UNREACHABLE", "ERR_QUEUE_FULL", "ERR_NO_WORKER"];

const requestOf = (seed: number): { prompt: string; params: { maxTokens: number; seed: number; ignoreEos: true } } => ({
  prompt: "Once upon a time",
  params: { maxTokens: 60, seed, ignoreEos: true },
});

describe.skipIf(noServer)("a fleet whose Valkey has a replica and sentinels (skipped without Valkey)", () => {
  let cluster: ValkeyCluster;
  let front: FleetEngine;
  const engines: ReadMeEngine[] = [];
  const workers: FleetWorker[] = [];
  const expected = new Map<number, Answer>();

  beforeAll(async () => {
    const cacheFolder = await persistentFolder();
    cluster = await startCluster();
    engines.push(await openPocket(cacheFolder), await openPocket(cacheFolder));
    for (const [index, engine] of engines.entries()) {
      workers.push(FleetWorker.open({ fleet: cluster.url, engine, id: `worker-${index}` }));
    }
    front = await FleetEngine.open({ fleet: cluster.url, reader: await openPromptReader(POCKET, { cacheFolder }) });
    for (let seed = 0; seed < 5; seed++) expected.set(seed, await readAnswer(engines[0]!, requestOf(seed)));
  });

  afterAll(async () => {
    await front?.dispose();
    for (const worker of workers) await worker.close();
    for (const engine of engines) await engine.dispose();
    await cluster?.stop();
  });

  /** Answers right, or fails with what callers may be told. @returns whether it was answered */
  const ask = async (seed: number): Promise<boolean> => {
    try {
      expect(await readAnswer(front, requestOf(seed))).toEqual(expected.get(seed));
      return true;
    } catch (error) {
      if (!(error instanceof ReadMeError)) throw error;
      expect(TOLD).toContain(error.code);
      return false;
    }
  };

  test(
    "answers again soon after the primary was lost, and nothing is left over",
    async () => {
      await until(() => ask(0));
      const outagesMs: number[] = [];
      for (let round = 0; round < NUM_FAILOVERS; round++) {
        const stop = new AbortController();
        const load = Array.from({ length: NUM_AT_ONCE }, async (_, index) => {
          while (!stop.signal.aborted) await ask((round + index) % 5);
        });
        const lost = await cluster.primary();
        const isKilled = round % 2 === 0;
        const beganMs = performance.now();
        if (isKilled) lost.child.kill("SIGKILL");
        else lost.child.kill("SIGSTOP");
        await until(async () => (await cluster.primary()).port !== lost.port);
        await until(() => ask(round % 5));
        outagesMs.push(performance.now() - beganMs);
        if (isKilled) await cluster.restart(lost.port);
        else lost.child.kill("SIGCONT");
        stop.abort();
        await Promise.all(load);
        await until(() => ask(round % 5));
        await cluster.settled();
      }
      if (NUM_FAILOVERS > 1) {
        const [killed, stopped] = [0, 1].map((rest) => outagesMs.filter((_, round) => round % 2 === rest));
        for (const [what, times = []] of [
          ["killed", killed],
          ["stopped", stopped],
        ] as const) {
          const [middle, high] = [50, 95].map((percent) => percentile(times, percent).toFixed(0));
          console.log(
            `${what}: ${times.length} times; service after p50 ${middle} ms, p95 ${high} ms, longest ${Math.max(...times).toFixed(0)} ms`,
          );
        }
        expect(Math.max(...outagesMs)).toBeLessThan(LONGEST_OUTAGE_MS);
      }
      await until(async () => (await readFleetStatus(cluster.url)).queues.length === 0);
      await until(async () => (await front.stats()).numRunning === 0);
      const { redis } = await cluster.primary();
      await expect.poll(() => leftovers(redis)).toEqual([]);
      expect(front.numDifferent).toBe(0);
      expect(workers.map((worker) => worker.state().counters.different)).toEqual([0, 0]);
    },
    300_000 + 60_000 * NUM_FAILOVERS,
  );
});
