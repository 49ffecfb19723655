// Answers of a fleet while its machines are killed, frozen and drained: every token as on one machine without faults.

import { seededRandom, type Engine } from "@readme-moe/core";
import { openPromptReader, ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, readFleetStatus } from "@readme-moe/fleet";
import { Grammars } from "@readme-moe/grammar";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { requestKeys } from "../../packages/fleet/src/keys.ts";
import { Chaos, type Fault } from "../support/fleet/chaos.ts";
import { leftovers } from "../support/fleet/leftovers.ts";
import { makeRequests, readAnswer } from "../support/fleet/requests.ts";
import { ResumeGaps } from "../support/fleet/resume-gaps.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a fleet's failures did not run: ${noServer}`);

/** Model of the long run. @default the pocket model */
const MODEL = process.env["README_MOE_FLEET_MODEL"] ?? POCKET;
/** The thousand of `npm run test:fleet`, and fewer in the suite. */
const NUM_REQUESTS = Number(process.env["README_MOE_FLEET_REQUESTS"] ?? 48);
const NUM_AT_ONCE = 12;
const LEAST_FAULTS = 3;
const FROZEN_MS = 3000;

describe.skipIf(noServer !== undefined)("a fleet of three machines and two fronts (skipped without Valkey)", () => {
  let server: ValkeyServer;
  let chaos: Chaos;
  let local: Engine;
  let grammars: Grammars;
  const fronts: FleetEngine[] = [];
  const numFaults = (): number => Object.values(chaos.faults).reduce((sum, count) => sum + count);

  beforeAll(async () => {
    const cacheFolder = await persistentFolder();
    server = await startValkey();
    local = await ReadMeEngine.open(MODEL, { precision: "fp32", cacheFolder, isolation: "thread", threads: 2 });
    grammars = await Grammars.open(local);
    chaos = new Chaos({ fleet: server.url, model: MODEL, args: ["--cache-folder", cacheFolder] }, seededRandom(5));
    await chaos.start(3);
    for (let index = 0; index < 2; index++) {
      fronts.push(
        await FleetEngine.open({ fleet: server.url, reader: await openPromptReader(MODEL, { cacheFolder }) }),
      );
    }
  }, 600_000);

  afterAll(async () => {
    await Promise.all(fronts.map((front) => front.dispose()));
    await chaos?.stop();
    await grammars?.dispose();
    await local?.dispose();
    await server?.stop();
  });

  test(
    "loses no answer, doubles none, and gives each token that one machine gives",
    async () => {
      const requests = await makeRequests(NUM_REQUESTS, grammars, { seed: 3, maxTokens: 120 });
      const expected = await Promise.all(requests.map((request) => readAnswer(local, request)));
      const gaps = new ResumeGaps();
      let numDone = 0;
      let next = 0;
      // A fast machine answers all requests before the third fault, and then some of them again.
      const isLeft = (count: number): boolean => count < requests.length || numFaults() < LEAST_FAULTS;
      const work = async (): Promise<void> => {
        while (isLeft(next)) {
          const numBegun = next++;
          const index = numBegun % requests.length;
          const request = requests[index];
          const front = fronts[index % fronts.length];
          if (!request || !front) return;
          const id = `${request.id}-${numBegun}`;
          const answer = await readAnswer(front, { ...request, id }, () => gaps.chunk(id, performance.now()));
          gaps.ended(id);
          expect(answer, `request ${index}`).toEqual(expected[index]);
          numDone++;
        }
      };
      const working = Promise.all(Array.from({ length: NUM_AT_ONCE }, work));
      const strike = async (fault: Fault, workerId: string): Promise<void> => {
        for (const id of gaps.ids) {
          const [meta = ""] = await server.redis.keys(requestKeys(`${id}.*`).meta);
          if ((await server.redis.hget(meta, "owner")) === workerId) gaps.struck(id, fault);
        }
      };
      const faults = (async () => {
        while (isLeft(numDone)) await chaos.next(FROZEN_MS, strike);
      })();
      await working;
      await faults;
      expect(numDone).toBe(next);
      expect(numDone).toBeGreaterThanOrEqual(requests.length);
      expect(fronts.map((front) => front.numDifferent)).toEqual([0, 0]);
      const { workers } = await until(async () => {
        const status = await readFleetStatus(server.url);
        const isIdle = status.queues.length === 0 && status.workers.every(({ runningSeqs }) => runningSeqs === 0);
        return isIdle && status.workers.length === 3 && status;
      });
      expect(workers.map(({ counters }) => counters.different)).toEqual(workers.map(() => 0));
      await expect.poll(() => leftovers(server.redis)).toEqual([]);
      if (NUM_REQUESTS >= 100) console.log(`${numDone} answers, ${numFaults()} faults; pauses: ${gaps.toString()}`);
    },
    NUM_REQUESTS * 4000 + 300_000,
  );
});
