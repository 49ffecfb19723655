// Models with recurrences in a fleet: a state is computed again wherever an answer goes on, with the same bits.

import type { GenerateRequest } from "@readme-moe/core";
import { openPromptReader, ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, FleetWorker } from "@readme-moe/fleet";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { completeAll } from "../support/complete.ts";
import { killMachine, startMachine } from "../support/fleet/machines.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { FIXTURE_VOCABULARY, readableFixture } from "../support/readable-fixture.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a fleet with recurrences did not run: ${noServer}`);

describe.skipIf(noServer !== undefined)("a fleet of models with recurrences (skipped without Valkey)", () => {
  let server: ValkeyServer;
  beforeAll(async () => {
    server = await startValkey();
  });
  afterAll(() => server?.stop());

  test.each(["hybrids/lfm2", "hybrids/qwen3-5", "hybrids/granite4-h"])(
    "goes on with answers of %s whose machine was killed, with the same bits",
    async (name) => {
      const folder = await persistentFolder();
      const path = await readableFixture(name, folder);
      const fleet = server.url;
      const shared = { precision: "fp32", isolation: "thread", threads: 1, cacheFolder: folder } as const;
      await using engine = await ReadMeEngine.open(path, shared);
      const reader = await openPromptReader(path, { cacheFolder: folder });
      await using front = await FleetEngine.open({ fleet, reader });
      const known = (count: number): Promise<boolean> =>
        until(async () => {
          await front.stats();
          return front.info.maxNumSeqs === count * engine.info.maxNumSeqs;
        });
      const random = seededRandom(1);
      const requests = Array.from({ length: 4 }, (_, index): GenerateRequest => {
        const prompt = Array.from({ length: 150 }, () => 3 + randomInteger(random, FIXTURE_VOCABULARY - 3));
        return {
          prompt,
          params: { maxTokens: 300, ignoreEos: true, logprobs: 2, seed: index, temperature: index % 2 },
        };
      });
      const expected = await Promise.all(requests.map((request) => completeAll(engine, request)));

      const machine = await startMachine({ fleet, model: path, id: name, args: ["--cache-folder", folder] });
      await known(1);
      let began = 0;
      let killed: Promise<void> | undefined;
      let worker: FleetWorker | undefined;
      const answers = requests.map((request) =>
        completeAll(front, request, () => {
          // All answers are under way.
          if (++began !== 40) return;
          worker = FleetWorker.open({ fleet, engine, id: "next" });
          killed = killMachine(machine);
        }),
      );
      const actual = await Promise.all(answers);
      await killed;
      expect(actual.map(({ choices }) => choices)).toEqual(expected.map(({ choices }) => choices));
      expect(worker?.state().counters).toMatchObject({ different: 0 });
      expect(worker?.state().counters.resumed).toBeGreaterThan(0);
      await worker?.close();
    },
  );
});
