// Loads a fleet for half an hour while its machines fail. Memory and keys of Valkey have to stay flat once logs expire.
// `npm run bench:fleet-soak -- --minutes 30`

import { parseArgs } from "node:util";
import { seededRandom } from "@readme-moe/core";
import { openPromptReader, ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine } from "@readme-moe/fleet";
import { Grammars } from "@readme-moe/grammar";
import { Chaos } from "../test/support/fleet/chaos.ts";
import { makeRequests, readAnswer } from "../test/support/fleet/requests.ts";
import { startValkey } from "../test/support/fleet/valkey.ts";

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "30" }, model: { type: "string", default: "models/pocket" } },
});
const endMs = performance.now() + 60_000 * Number(values.minutes);
const isOver = (): boolean => performance.now() >= endMs;

const server = await startValkey();
const local = await ReadMeEngine.open(values.model);
const grammars = await Grammars.open(local);
const chaos = new Chaos({ fleet: server.url, model: values.model }, seededRandom(1));
await chaos.start(3);
const fronts = [
  await FleetEngine.open({ fleet: server.url, reader: await openPromptReader(values.model) }),
  await FleetEngine.open({ fleet: server.url, reader: await openPromptReader(values.model) }),
];
let numAnswered = 0;
const failures = new Map<string, number>();

async function load(index: number): Promise<void> {
  for (let round = 0; !isOver(); round++) {
    const front = fronts[(index + round) % fronts.length];
    // On a machine that is too busy the grammars may not be ready in time.
    const requests = await makeRequests(8, grammars, { seed: 1000 * index + round, maxTokens: 80 }).catch(() => []);
    for (const request of requests) {
      if (!front || isOver()) return;
      try {
        await readAnswer(front, request);
        numAnswered++;
      } catch (error) {
        const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
        failures.set(code, (failures.get(code) ?? 0) + 1);
      }
    }
  }
}

async function report(): Promise<void> {
  const memory = /used_memory:(\d+)/.exec(await server.redis.info("memory"))?.[1];
  const keys = await server.redis.dbsize();
  const different = fronts.map((front) => front.numDifferent);
  const ownBytes = process.memoryUsage.rss();
  console.log(
    JSON.stringify({ numAnswered, failures: [...failures], faults: chaos.faults, memory, keys, different, ownBytes }),
  );
}

const timer = setInterval(() => void report(), 30_000);
const faults = (async () => {
  while (!isOver()) await chaos.next(3000);
})();
await Promise.all(Array.from({ length: 8 }, (_, index) => load(index)));
await faults;
clearInterval(timer);
await report();
for (const front of fronts) await front.dispose();
await chaos.stop();
await grammars.dispose();
await local.dispose();
await server.stop();
