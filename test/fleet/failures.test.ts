// Answers of a fleet while its machines are killed, frozen and drained: every token as on one machine without faults.

import { seededRandom, type Engine } from "@readme-moe/core";
import { openPromptReader } from "@readme-moe/engine";
import { FleetEngine, readFleetStatus } from "@readme-moe/fleet";
import { Grammars } from "@readme-moe/grammar";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Chaos } from "../support/fleet/chaos.ts";
import { makeRequests, readAnswer } from "../support/fleet/requests.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { openPocket } from "../support/pocket-engine.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a fleet's failures did not run: ${noServer}`);

/** The thousand of `npm run test:fleet`, and fewer in the suite. */
const NUM_REQUESTS = Number(process.env["README_MOE_FLEET_REQUESTS"] ?? 48);
const NUM_AT_ONCE = 12;
const LEAST_FAULTS = 3;
const FROZEN_MS = 3000;

describe.skipIf(noServer !== undefined)("a fleet of three machines and two fronts", () => {
  let server: ValkeyServer;
  let chaos: Chaos;
  let local: Engine;
  let grammars: Grammars;
  const fronts: FleetEngine[] = [];
  const numFaults = (): number => Object.values(chaos.faults).reduce((sum, count) => sum + count);

  beforeAll(async () => {
    const cacheFolder = await persistentFolder();
    server = await startValkey();
    local = await openPocket(cacheFolder);
    grammars = await Grammars.open(local);
    chaos = new Chaos({ fleet: server.url, model: POCKET, args: ["--cache-folder", cacheFolder] }, seededRandom(5));
    await chaos.start(3);
    for (let index = 0; index < 2; index++) {
      fronts.push(
        await FleetEngine.open({ fleet: server.url, reader: await openPromptReader(POCKET, { cacheFolder }) }),
      );
    }
  });

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
      let numDone = 0;
      let next = 0;
      // A fast machine answers all requests before the third fault, and then some of them again.
      const isLeft = (count: number): boolean => count < requests.length || numFaults() < LEAST_FAULTS;
      const work = async (): Promise<void> => {
        while (isLeft(next)) {
          const index = next++ % requests.length;
          const request = requests[index];
          const front = fronts[index % fronts.length];
          if (!request || !front) return;
          expect(await readAnswer(front, request), `request ${index}`).toEqual(expected[index]);
          numDone++;
        }
      };
      const working = Promise.all(Array.from({ length: NUM_AT_ONCE }, work));
      const faults = (async () => {
        while (isLeft(numDone)) await chaos.next(FROZEN_MS);
      })();
      await working;
      await faults;
      expect(numDone).toBe(next);
      expect(numDone).toBeGreaterThanOrEqual(requests.length);
      expect(fronts.map((front) => front.numDifferent)).toEqual([0, 0]);
      const { queues, workers } = await readFleetStatus(server.url);
      expect(queues).toEqual([]);
      expect(workers.map(({ counters }) => counters.different)).toEqual(workers.map(() => 0));
    },
    NUM_REQUESTS * 4000 + 60_000,
  );
});
