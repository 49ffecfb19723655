// Workers that have room for half of the experts: placement saves reads, and answers are those of one machine.

import { seededRandom, type EngineStats, type GenerateRequest } from "@readme-moe/core";
import { openPromptReader, ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, FleetWorker, readFleetStatus } from "@readme-moe/fleet";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { join } from "node:path";
import { startMachine } from "../support/fleet/machines.ts";
import { readAnswer, type Answer } from "../support/fleet/requests.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

if (noServer !== undefined) console.log(`The tests of a fleet with streamed experts did not run: ${noServer}`);

const [NUM_EXPERTS, NUM_LAYERS, EXPERT_SIZE] = [6, 4, 1024] as const;
/** Room for three of six experts of 0.6 MB. */
const BUDGET_BYTES = 1_700_000;
const NUM_CLIENTS = 6;

function makeRequests(count: number, maxTokens: number): readonly GenerateRequest[] {
  const random = seededRandom(3);
  return Array.from({ length: count }, (_, index) => ({
    prompt: `${index} was the number of the chapter`,
    expert: Math.floor(NUM_EXPERTS * random()),
    params: { maxTokens, temperature: 0, ignoreEos: true },
  }));
}

/** Sends requests from several clients, each of which waits for its answers. */
async function answerAll(
  requests: readonly GenerateRequest[],
  answer: (request: GenerateRequest) => Promise<Answer>,
): Promise<readonly Answer[]> {
  const answers: Answer[] = [];
  const left = [...requests.entries()];
  const client = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) answers[next[0]] = await answer(next[1]);
  };
  await Promise.all(Array.from({ length: NUM_CLIENTS }, client));
  return answers;
}

/** Lets an engine report reads of 5 MB/s. The test's file is in the system's cache, where experts cost next to nothing. */
function onSlowDisk(engine: ReadMeEngine): ReadMeEngine {
  const stats = async (): Promise<EngineStats> => {
    const measured = await engine.stats();
    return measured.cost ? { ...measured, cost: { ...measured.cost, loadMsPerByte: 2e-4 } } : measured;
  };
  return new Proxy(engine, {
    get(target, name) {
      if (name === "stats") return stats;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

describe.skipIf(noServer !== undefined)("a fleet whose workers stream experts (skipped without Valkey)", () => {
  let folder: string;
  let cacheFolder: string;
  let server: ValkeyServer;
  let whole: ReadMeEngine;
  let engines: readonly ReadMeEngine[];
  let front: FleetEngine;

  const open = (expertCacheBytes?: number): Promise<ReadMeEngine> =>
    ReadMeEngine.open(folder, { precision: "int8", threads: 1, isolation: "thread", cacheFolder, expertCacheBytes });
  const bytesRead = async (): Promise<number> => {
    const stats = await Promise.all(engines.map((engine) => engine.stats()));
    return stats.reduce((sum, { expertCache }) => sum + (expertCache?.bytesRead ?? 0), 0);
  };
  /** Counts the experts that have a home, once so many workers have published the same homes. */
  const placesOf = async (count: number): Promise<number> => {
    const homes = (await readFleetStatus(server.url)).workers.map((worker) => JSON.stringify(worker.homes));
    if (homes.length < count || new Set(homes).size > 1) return 0;
    return Object.keys(JSON.parse(homes[0] ?? "{}") as object).length;
  };
  const known = (count: number): Promise<boolean> =>
    until(async () => {
      await front.stats();
      return front.info.maxNumSeqs === count * whole.info.maxNumSeqs;
    });

  beforeAll(async () => {
    cacheFolder = await persistentFolder();
    folder = join(cacheFolder, "experts");
    const sizes = Array.from({ length: NUM_LAYERS }, () => EXPERT_SIZE);
    await writeTinyReadMe(folder, {
      ...WITH_TOKENIZER,
      numExperts: NUM_EXPERTS,
      expertSizes: sizes,
      sharedSizes: [16, 0, 0, 0],
    });
    server = await startValkey();
    const [resident, ...streaming] = await Promise.all([open(), open(BUDGET_BYTES), open(BUDGET_BYTES)]);
    [whole, engines] = [resident, streaming];
    front = await FleetEngine.open({ fleet: server.url, reader: await openPromptReader(folder, { cacheFolder }) });
  });

  afterAll(async () => {
    await front?.dispose();
    await Promise.all([whole, ...(engines ?? [])].map((engine) => engine?.dispose()));
    await server?.stop();
  });

  test("answers as one machine does, and reads at most three quarters of the bytes that it reads by load alone", async () => {
    const requests = makeRequests(60, 3);
    const expected = await answerAll(requests, (request) => readAnswer(whole, request));
    const workers = engines.map((engine, index) =>
      FleetWorker.open({ fleet: server.url, engine: onSlowDisk(engine), id: `worker-${index}` }),
    );
    await known(2);
    // Homes follow the work of some seconds.
    for (let round = 0; (await placesOf(2)) < NUM_EXPERTS; round++) {
      await answerAll(requests, (request) => readAnswer(front, request));
    }
    const before = await bytesRead();
    expect(await answerAll(requests, (request) => readAnswer(front, request))).toEqual(expected);
    const placed = (await bytesRead()) - before;
    await Promise.all(workers.map((worker) => worker.close()));
    // The engine with fewer requests takes the next one.
    const running = [0, 0];
    const byLoad = await answerAll(requests, async (request) => {
      const index = (running[0] ?? 0) <= (running[1] ?? 0) ? 0 : 1;
      const change = (by: number): void => void (running[index] = (running[index] ?? 0) + by);
      change(1);
      return readAnswer(engines[index] as ReadMeEngine, request).finally(() => change(-1));
    });
    expect(byLoad).toEqual(expected);
    const unplaced = (await bytesRead()) - before - placed;
    expect(placed).toBeLessThan(0.75 * unplaced);
  });

  test("goes on with the answer of a worker that was killed", async () => {
    const args = ["--precision", "int8", "--expert-cache", `${BUDGET_BYTES / 1e6}MB`, "--cache-folder", cacheFolder];
    const machine = await startMachine({ fleet: server.url, model: folder, id: "killed", args });
    const request = { prompt: "In the year", params: { maxTokens: 150, seed: 1, ignoreEos: true } };
    await known(1);
    let next: FleetWorker | undefined;
    const answer = await readAnswer(front, request, () => {
      if (next) return;
      next = FleetWorker.open({ fleet: server.url, engine: engines[0] as ReadMeEngine, id: "next" });
      machine.child.kill("SIGKILL");
    });
    await machine.ended;
    expect(answer).toEqual(await readAnswer(whole, request));
    expect(next?.state().counters).toMatchObject({ resumed: 1, answered: 1 });
    await next?.close();
  });
});
