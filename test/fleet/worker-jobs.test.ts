// A worker with jobs that other workers have begun, that come back, or that come while it leaves.

import { setImmediate as nextTurn } from "node:timers/promises";
import type { GenerateChunk, GenerateRequest } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { FleetWorker, parseFleetUrl, type FleetWorkerOptions } from "@readme-moe/fleet";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { affinityOf, countExperts } from "../../packages/fleet/src/affinity.ts";
import { openConnection } from "../../packages/fleet/src/connect.ts";
import { writeJob } from "../../packages/fleet/src/job.ts";
import { workerKey } from "../../packages/fleet/src/keys.ts";
import {
  AnswerProgress,
  appendEntries,
  claimRequest,
  endsAnswer,
  readEntries,
  readEntry,
  writeEntry,
} from "../../packages/fleet/src/log/token-log.ts";
import { withScripts, type ScriptedRedis } from "../../packages/fleet/src/log/scripts.ts";
import { JobAdder, type QueuePlace } from "../../packages/fleet/src/job-queues.ts";
import { Deferred } from "../support/deferred.ts";
import * as fc from "../support/fast-check.ts";
import { Pipe } from "../support/fleet/pipe.ts";
import { collectAnswer, type Answer } from "../support/fleet/requests.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { EMBEDDING_MODEL, openPooling } from "../support/pooling-models.ts";
import { openPocket } from "../support/pocket-engine.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a worker's jobs did not run: ${noServer}`);

const REQUEST = {
  prompt: "Once upon a time",
  params: { maxTokens: 12, seed: 5, n: 2, ignoreEos: true, temperature: 1 },
} as const satisfies GenerateRequest;

describe.skipIf(noServer !== undefined)("a worker", () => {
  let server: ValkeyServer;
  let engine: ReadMeEngine;
  let redis: ScriptedRedis;
  let adder: JobAdder;
  let chunks: readonly GenerateChunk[];
  let expected: Answer;
  let numJobs = 0;

  beforeAll(async () => {
    server = await startValkey();
    engine = await openPocket(await persistentFolder());
    const connection = openConnection(parseFleetUrl(server.url));
    redis = withScripts(connection.redis);
    adder = new JobAdder(redis, engine.info);
    const made: GenerateChunk[] = [];
    for await (const chunk of engine.generate(REQUEST)) made.push(chunk);
    chunks = made;
    expected = await collectAnswer(from(chunks), 2);
  });

  afterAll(async () => {
    await adder?.close();
    redis?.disconnect();
    await engine?.dispose();
    await server?.stop();
  });

  const openWorker = (options: Partial<FleetWorkerOptions>): FleetWorker => {
    const worker = FleetWorker.open({ fleet: server.url, engine, ...options });
    onTestFinished(() => worker.close());
    return worker;
  };
  /** Adds a job to its queue. */
  const addJob = async (): Promise<{ readonly id: string; readonly place: QueuePlace }> => {
    const routed = await engine.route(REQUEST.prompt);
    const id = `request-${++numJobs}.job`;
    const expertTokens = countExperts(routed.experts, engine.info);
    const job = writeJob({ ...REQUEST, id, promptIds: routed.tokenIds, expertTokens });
    const place = { modelVersion: engine.info.modelVersion ?? "", affinity: affinityOf(routed, engine.info) };
    await adder.add(job, place, { reader: "front/reader", maxWaitMs: 1000 });
    return { id, place };
  };
  /** Reads the answer of a job once it is complete. */
  const answerOf = async (id: string): Promise<Answer> => {
    const entries = await until(async () => {
      const found = (await readEntries(redis, id, 0)).map(([, text]) => readEntry(text));
      const last = found.at(-1);
      return last && endsAnswer(last) && found;
    });
    const progress = new AnswerProgress(2);
    const parts = entries.flatMap((entry): readonly GenerateChunk[] => {
      if (!entry || "error" in entry) throw new Error(`Expected an answer, got ${JSON.stringify(entry)}`);
      const novelty = progress.follow(entry);
      // A choice that had ended in the log ends again.
      if (novelty.kind === "old") return [];
      if (novelty.kind !== "new") throw new Error(`Expected an entry that fits, got ${novelty.kind}`);
      return [novelty.chunk];
    });
    return collectAnswer(from(parts), 2);
  };

  test("goes on with a log of any of its choices' tokens, also where one choice has none yet", async () => {
    const worker = openWorker({ id: "resuming" });
    const most = expected.tokenIds[0]?.length ?? 0;
    const counts = fc.tuple(fc.nat(most), fc.nat(most));
    await fc.assert(
      fc.asyncProperty(counts, fc.integer({ min: 1, max: 4 }), async (kept, size) => {
        const left = [...kept];
        const progress = new AnswerProgress(2);
        const entries = chunks.flatMap((chunk) => {
          const { choice, tokens, usage } = chunk;
          const isKept = usage === undefined && tokens.length <= (left[choice] ?? 0);
          left[choice] = isKept ? (left[choice] ?? 0) - tokens.length : 0;
          return isKept ? [writeEntry(progress.place(chunk))] : [];
        });
        const before = worker.state().counters.resumed;
        const id = `request-${++numJobs}.job`;
        const { owner } = await claimRequest(redis, id, "gone");
        for (let at = 0; at < entries.length; at += size) {
          const part = entries.slice(at, at + size);
          await appendEntries(redis, [{ requestId: id, owner, place: at + 1, entries: part, isEnd: false }]);
        }
        numJobs--;
        await addJob();
        expect(await answerOf(id)).toStrictEqual(expected);
        expect(worker.state().counters.resumed - before).toBe(entries.length > 0 ? 1 : 0);
      }),
      {
        numRuns: 8,
        examples: [
          [[0, 5], 1],
          [[5, 0], 2],
          [[most, 0], 1],
          [[0, 0], 1],
        ],
      },
    );
    expect(worker.state().counters).toMatchObject({ different: 0, foreign: 0, refused: 0 });
  });

  test.each(["it drains", "its engine failed"])("hands on a job that it takes when %s", async (why) => {
    const pipe = await Pipe.open(server.port);
    onTestFinished(() => pipe.close());
    const failed = new Deferred<Error>();
    const ending = new Proxy(engine, {
      get(target, name) {
        if (name === "whenFailed") return () => failed.promise;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const limits = { commandMs: 60_000, silentMs: 60_000 };
    const worker = openWorker({ id: "leaving", engine: ending, fleet: `redis://127.0.0.1:${pipe.port}`, limits });
    await expect.poll(() => redis.exists(workerKey("leaving"))).toBe(1);
    // The beginning of the script that takes a job.
    pipe.hold("move next job to be processed to active");
    const { id, place } = await addJob();
    await expect.poll(() => pipe.isHeld).toBe(true);
    const drained = why === "it drains" ? worker.drain() : undefined;
    failed.resolve(new Error("ended"));
    await failed.promise;
    await nextTurn();
    pipe.release();
    await expect.poll(() => worker.state().counters).toMatchObject({ released: 1, answered: 0 });
    await drained;
    expect(worker.numRunning).toBe(0);
    expect([await adder.has(id, place), await readEntries(redis, id, 0)]).toStrictEqual([true, []]);
    openWorker({ id: "next" });
    expect(await answerOf(id)).toStrictEqual(expected);
  });
});

test("a model that gives embeddings is no machine of a fleet", async () => {
  await using engine = await openPooling(EMBEDDING_MODEL);
  const open = (): FleetWorker => FleetWorker.open({ fleet: "redis://127.0.0.1:1", engine });
  expect(open).toThrow("is for `embed`: serve it without a fleet");
});

async function* from(chunks: readonly GenerateChunk[]): AsyncGenerator<GenerateChunk> {
  yield* chunks;
}
