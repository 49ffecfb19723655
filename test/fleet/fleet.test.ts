// A fleet with one worker in this process: what callers see of it is what an engine gives.

import { isDeepStrictEqual } from "node:util";
import { coefficientsOf, ReadMeError, type Engine, type QueueState } from "@readme-moe/core";
import { openPromptReader, type ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, FleetWorker, readFleetStatus } from "@readme-moe/fleet";
import { Grammars } from "@readme-moe/grammar";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { affinityOf } from "../../packages/fleet/src/affinity.ts";
import { writeJob } from "../../packages/fleet/src/job.ts";
import { readerName, requestKeys } from "../../packages/fleet/src/keys.ts";
import { withScripts } from "../../packages/fleet/src/log/scripts.ts";
import { JobAdder, peekQueues, waitingKeysOf } from "../../packages/fleet/src/job-queues.ts";
import { completeAll } from "../support/complete.ts";
import { until } from "../support/serving-process.ts";
import { leftovers } from "../support/fleet/leftovers.ts";
import { collectAnswer, makeRequests, readAnswer } from "../support/fleet/requests.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { Valve } from "../support/fleet/valve.ts";
import { POCKET } from "../support/pocket.ts";
import { openPocket } from "../support/pocket-engine.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a fleet did not run: ${noServer}`);

const LONG = { prompt: "Once upon a time", params: { maxTokens: 200, seed: 1, ignoreEos: true } } as const;

describe.skipIf(noServer !== undefined)("a fleet (skipped without Valkey)", () => {
  let cacheFolder: string;
  let server: ValkeyServer;
  let url: string;
  let local: ReadMeEngine;
  let other: ReadMeEngine;
  let front: FleetEngine;
  let worker: FleetWorker;
  let grammars: Grammars;
  const valve = new Valve();
  const errors: string[] = [];
  // A front that is opened before its worker says so.
  const note = (error: Error): unknown =>
    error instanceof ReadMeError && error.code === "ERR_NO_WORKER" ? undefined : errors.push(error.message);

  const openFront = async (): Promise<FleetEngine> =>
    FleetEngine.open({
      fleet: url,
      reader: await openPromptReader(POCKET, { cacheFolder }),
      onError: note,
    });
  const openWorker = (engine: Engine, id: string): FleetWorker =>
    FleetWorker.open({ fleet: url, engine: valve.of(engine), id, onError: note });
  /** Waits until the worker runs nothing. */
  const idle = (): Promise<boolean> =>
    until(async () => {
      await server.redis.ping();
      return worker.numRunning === 0;
    });
  /** Waits until the front knows its workers. */
  const known = (count: number): Promise<boolean> =>
    until(async () => {
      await front.stats();
      return front.info.maxNumSeqs === count * local.info.maxNumSeqs;
    });

  beforeAll(async () => {
    cacheFolder = await persistentFolder();
    server = await startValkey();
    // The user of docs/fleet.md.
    const rights = ["~readme-moe*", "&readme-moe*", "+@all", "-@dangerous", "+info"];
    await server.redis.call("ACL", "SETUSER", "fleet", "on", ">top secret", ...rights);
    url = server.url.replace("redis://", "redis://fleet:top%20secret@");
    local = await openPocket(cacheFolder);
    other = await openPocket(cacheFolder);
    grammars = await Grammars.open(local);
    worker = openWorker(local, "first");
    front = await openFront();
    await known(1);
  });

  afterAll(async () => {
    await front?.dispose();
    await worker?.close();
    await grammars?.dispose();
    await local?.dispose();
    await other?.dispose();
    await server?.stop();
  });

  test("answers requests of all kinds as an engine does, and leaves nothing but logs that expire", async () => {
    for (const request of await makeRequests(16, grammars, { seed: 1, maxTokens: 24 })) {
      expect(await readAnswer(front, request)).toEqual(
        await readAnswer(local, { ...request, id: `${request.id}-local` }),
      );
    }
    await idle();
    expect(await leftovers(server.redis)).toEqual([]);
    expect(errors).toEqual([]);
  });

  test("says what it was asked for before it answers, and emits the events of an engine", async () => {
    const events: string[] = [];
    front.events.on("sequence:queued", ({ sequenceId }) => events.push(`queued ${sequenceId}`));
    front.events.on("token:generated", ({ isFirst }) => events.push(isFirst ? "first" : "token"));
    front.events.on("sequence:finished", ({ reason, completionTokens }) =>
      events.push(`${reason} ${completionTokens}`),
    );
    const generation = front.generate({
      prompt: "In the year",
      params: { maxTokens: 3, temperature: 0, ignoreEos: true },
      id: "r",
    });
    const routed = await local.route("In the year");
    expect(await generation.accepted).toEqual({ promptTokens: routed.tokenIds.length, experts: routed.experts });
    for await (const _ of generation);
    front.events.removeAllListeners();
    expect(events).toEqual(["queued r", "first", "token", "token", "length 3"]);
  });

  test("publishes what placement counts: costs, steps, and prompts that are in the prefix cache", async () => {
    const prompt = "The old harbour was quiet, and the ships lay still. ".repeat(12);
    for (const seed of [1, 2, 3]) await readAnswer(front, { prompt, params: { maxTokens: 4, seed } });
    const { experts } = await local.route(prompt);
    const affinity = affinityOf(await local.route(prompt), local.info);
    expect(experts.length).toBeGreaterThan(128);
    // A state may be of a time between two of the requests.
    const { cost } = await local.stats();
    const published = await until(async () => {
      const [state] = (await readFleetStatus(url)).workers;
      return (
        (state?.prefixTokens[affinity] ?? 0) > 0 &&
        isDeepStrictEqual(state?.cost, cost && coefficientsOf(cost)) &&
        state
      );
    });
    expect(published).toMatchObject({ missingBytes: [], expertPlaces: Infinity });
    expect(published.stepsPerSeq).toBeGreaterThan(1);
    const cachedOf = async (cacheSalt?: string): Promise<number | undefined> =>
      (await completeAll(front, { prompt, params: { maxTokens: 4, seed: 1 }, cacheSalt })).usage?.cachedTokens;
    expect(await cachedOf()).toBeGreaterThan(0);
    expect(await cachedOf("one")).toBe(0);
    expect(await cachedOf("one")).toBeGreaterThan(0);
    expect(await cachedOf("two")).toBe(0);
  });

  test("shows the experts of the jobs at the heads of queues", async () => {
    const adder = new JobAdder(withScripts(server.redis), { contextTokens: 100 });
    const place = { modelVersion: "other", affinity: "e1" };
    const about = { promptIds: [1, 2, 3, 4], params: { seed: 1, maxTokens: 500, n: 2 } };
    await adder.add(writeJob({ id: "x", ...about, expertTokens: [1, 3] }), place, {
      reader: readerName("front", "one"),
      maxWaitMs: 1000,
    });
    const peek = async (): Promise<readonly QueueState[]> => {
      const waitingKeys = waitingKeysOf("other", ["e0", "e1"]);
      return (
        await peekQueues(withScripts(server.redis), { modelVersion: "other", affinities: ["e0", "e1"], waitingKeys })
      ).queues;
    };
    expect(await peek()).toMatchObject([
      { key: "e1", waiting: 1, head: { promptTokens: 4, maxNewTokens: 192, expertShares: [0.25, 0.75] } },
    ]);
    await server.redis.hset(requestKeys("x").meta, "experts", "[-1]");
    expect((await peek())[0]?.head.expertShares).toBeUndefined();
    await adder.remove("x", place);
    expect(await peek()).toEqual([]);
    await adder.close();
  });

  test("answers another request with the id of one that has ended", async () => {
    for (const prompt of ["The old harbour was", "def main("]) {
      const request = { prompt, params: { maxTokens: 8, temperature: 0 }, id: "again" };
      expect(await readAnswer(front, request)).toEqual(await readAnswer(local, request));
    }
  });

  test("refuses at once what an engine refuses, and functions, which stay in their process", async () => {
    const bad =
      (request: object): (() => unknown) =>
      () =>
        front.generate(request as never);
    expect(bad({ prompt: "a", params: { topP: 2 } })).toThrow(/topP/);
    expect(bad({ prompt: "a", expert: "nobody" })).toThrow(/nobody/);
    expect(bad({ prompt: "a", id: "a b" })).toThrow(/`id`/);
    expect(bad({ prompt: "a", processLogits: () => undefined })).toThrow(/processLogits/);
    expect(bad({ prompt: "a", nothing: 1 })).toThrow(/nothing/);
    await expect(readAnswer(front, { prompt: "a ".repeat(9000) })).rejects.toMatchObject({
      code: "ERR_CONTEXT_LENGTH",
    });
  });

  test("ends the work of a caller who leaves, within a few steps", async () => {
    valve.close(20);
    const generation = front.generate({ ...LONG, id: "left" });
    await generation.next();
    await generation.return?.();
    await idle();
    const [log = ""] = await server.redis.keys(requestKeys("left.*").log);
    expect(await server.redis.xlen(log)).toBeLessThan(150);
    const aborter = new AbortController();
    const aborted = readAnswer(front, { ...LONG, signal: aborter.signal }, () => aborter.abort(new Error("enough")));
    await expect(aborted).rejects.toThrow("enough");
    await idle();
    valve.open();
  });

  test("ends its answers as ones to be sent to another front when it is disposed, and their work", async () => {
    const second = await openFront();
    const generation = second.generate({ ...LONG, id: "stopped" });
    await generation.next();
    await second.dispose();
    await expect(collectAnswer(generation)).rejects.toMatchObject({ code: "ERR_DRAINED" });
    await idle();
  });

  test("hands a stream from a worker that drains to the next one, token by token the same", async () => {
    const expected = await readAnswer(other, LONG);
    const second = openWorker(other, "second");
    await known(2);
    valve.close(40);
    let numChunks = 0;
    let drained: Promise<void> | undefined;
    const answer = await readAnswer(front, LONG, () => {
      if (++numChunks !== 20) return;
      const [busy] = [worker, second].filter(({ numRunning }) => numRunning > 0);
      drained = busy?.drain().then(() => valve.open());
    });
    await drained;
    expect(answer).toEqual(expected);
    const states = [worker.state(), second.state()];
    expect(states.map(({ counters }) => counters.released)).toEqual(expect.arrayContaining([0, 1]));
    expect(states.map(({ counters }) => counters.resumed)).toEqual(expect.arrayContaining([0, 1]));
    await Promise.all([worker.close(), second.close()]);
    await expect.poll(() => front.stats().then(() => front.info.modelVersion)).toBe(undefined);
    await expect(readAnswer(front, LONG)).rejects.toMatchObject({ code: "ERR_NO_WORKER" });
    worker = openWorker(local, "third");
    await known(1);
  });

  test("goes on with a request that comes back to the same worker, as a new one of its engine", async () => {
    const expected = await readAnswer(other, LONG);
    const engineIds: string[] = [];
    valve.close(20);
    local.events.on("sequence:queued", ({ sequenceId }) => {
      if (engineIds.push(sequenceId) === 2) valve.open();
    });
    let numChunks = 0;
    let lost: Promise<unknown> | undefined;
    const answer = await readAnswer(front, LONG, () => {
      // Without its lock the job is anybody's.
      if (++numChunks === 10) lost = server.redis.keys("readme-moe-q:*:lock").then((keys) => server.redis.del(...keys));
    });
    await lost;
    local.events.removeAllListeners();
    expect(answer).toEqual(expected);
    expect(worker.state().counters).toMatchObject({ foreign: 1, resumed: 1, different: 0 });
    expect(engineIds).toHaveLength(2);
    expect(new Set(engineIds).size).toBe(2);
  });

  test("keeps the password out of everything that it says", async () => {
    await expect(
      FleetEngine.open({
        fleet: url.replace("top%20secret", "wrong%20secret"),
        reader: await openPromptReader(POCKET, { cacheFolder }),
        limits: { commandMs: 500 },
        onError: ({ message }) => errors.push(message),
      }),
    ).rejects.toSatisfy((error: unknown) => {
      const text = JSON.stringify([String(error), error instanceof ReadMeError && String(error.cause)]);
      return error instanceof ReadMeError && error.code === "ERR_FLEET_UNREACHABLE" && !/secret/.test(text);
    });
    expect(errors.join("\n")).not.toMatch(/secret/);
    expect(front.address).toBe(`redis://127.0.0.1:${server.port}`);
  });
});
