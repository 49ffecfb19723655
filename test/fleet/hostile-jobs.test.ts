// Jobs that no front writes, in the queue of a real worker: it refuses each one, and goes on.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openPromptReader, type ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, FleetWorker } from "@readme-moe/fleet";
import { Queue } from "bullmq";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { affinitiesOf } from "../../packages/fleet/src/affinity.ts";
import { QUEUE_PREFIX, queueName, requestKeys } from "../../packages/fleet/src/keys.ts";
import { hostileJobs } from "../support/fleet/hostile-jobs.ts";
import { leftovers } from "../support/fleet/leftovers.ts";
import { readAnswer } from "../support/fleet/requests.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { openPocket } from "../support/pocket-engine.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of hostile jobs did not run: ${noServer}`);

/** The two thousand of `npm run test:fleet`, and fewer in the suite. */
const NUM_JOBS = Number(process.env["README_MOE_FLEET_HOSTILE_JOBS"] ?? 200);
const SECRET = "the text of a file";

describe.skipIf(noServer !== undefined)("a worker whose queue anyone can write to (skipped without Valkey)", () => {
  let server: ValkeyServer;
  let engine: ReadMeEngine;
  let worker: FleetWorker;
  let front: FleetEngine;
  const errors: string[] = [];

  beforeAll(async () => {
    const cacheFolder = await persistentFolder();
    server = await startValkey();
    engine = await openPocket(cacheFolder);
    worker = FleetWorker.open({ fleet: server.url, engine, onError: ({ message }) => errors.push(message) });
    front = await FleetEngine.open({ fleet: server.url, reader: await openPromptReader(POCKET, { cacheFolder }) });
  });

  afterAll(async () => {
    await front?.dispose();
    await worker?.close();
    await engine?.dispose();
    await server?.stop();
  });

  test("reads no file, loads no module, keeps nothing, and answers what fronts send", async () => {
    const folder = await temporaryFolder();
    const bait = { file: join(folder, "secret.txt"), module: join(folder, "module.mjs") };
    await writeFile(bait.file, SECRET);
    await writeFile(bait.module, "globalThis.readMeMoeWasTaken = true;\nexport default () => undefined;\n");
    const { modelVersion = "" } = engine.info;
    const [affinity = ""] = affinitiesOf(engine.info);
    const queue = new Queue(queueName(modelVersion, affinity), {
      connection: { url: server.url },
      prefix: QUEUE_PREFIX,
    });
    const jobs = hostileJobs(NUM_JOBS, 1, bait);
    const opts = { removeOnComplete: true, removeOnFail: true };
    await queue.addBulk(jobs.map(({ id, data }) => ({ name: "generate", data, opts: { ...opts, jobId: id } })));
    const { redis } = server;
    await until(async () => {
      const counts = await queue.getJobCounts("wait", "active", "prioritized");
      return Object.values(counts).every((count) => count === 0) && worker.numRunning === 0;
    });
    // A limit of time may be this machine's alone, so three try it.
    const constraint = { kind: "reasoning", isOpen: true, beginId: 1e9, endId: 1, closingIds: [1], gapIds: [] };
    const limited = {
      version: 1,
      id: "limited",
      prompt: [1],
      params: { maxTokens: 1, n: 1, seed: 1 },
      priority: 0,
      constraint,
    };
    await queue.add("generate", limited, { ...opts, jobId: "limited" });
    const { log, meta } = requestKeys("limited");
    const [[, fields]] = await until(async () => {
      const found = await redis.xrange(log, "-", "+");
      return found.length > 0 && (found as [[string, string[]]]);
    });
    expect(fields[1]).toContain('"kind":"RangeError"');
    expect(await redis.hget(meta, "epoch")).toBe("3");
    await queue.close();
    expect(worker.state().isDraining, errors.join()).toBe(false);
    expect(worker.state().counters.refused).toBeGreaterThan(NUM_JOBS / 4);
    expect(worker.state().pulls).toBeGreaterThan(NUM_JOBS);
    await until(async () => (await front.stats(), front.info.modelVersion !== undefined));
    const request = { prompt: "Once upon a time", params: { maxTokens: 8, seed: 1 } };
    expect(await readAnswer(front, request)).toEqual(await readAnswer(engine, request));
    expect(globalThis).not.toHaveProperty("readMeMoeWasTaken");
    expect({}).not.toHaveProperty("maxTokens");
    const logs = await redis.keys("readme-moe:{*}:log");
    const entries = await Promise.all(logs.map((key) => redis.xrange(key, "-", "+")));
    expect(JSON.stringify([entries, errors])).not.toContain(SECRET);
    // A job is removed after its answer has come.
    await expect.poll(() => leftovers(redis)).toEqual([]);
  });
});
