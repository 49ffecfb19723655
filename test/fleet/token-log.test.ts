// The log of a request in a real server: one owner writes, each entry once, and nothing is written over.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Connection, openConnection, parseFleetUrl } from "../../packages/fleet/src/connect.ts";
import { withScripts, type ScriptedRedis } from "../../packages/fleet/src/log/scripts.ts";
import { LogWriter, WorkerLogs, type WriteEnd } from "../../packages/fleet/src/log/log-writer.ts";
import {
  cancelRequest,
  claimRequest,
  readEntries,
  readNews,
  type Append,
  type AppendOutcome,
  type Claim,
} from "../../packages/fleet/src/log/token-log.ts";
import { requestIdOf } from "../../packages/fleet/src/job.ts";
import { FRONT_PREFIX, jobOfKey, readerName, requestKeys } from "../../packages/fleet/src/keys.ts";
import { seededRandom } from "@readme-moe/core";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";

if (noServer !== undefined) console.log(`The tests of the fleet's log did not run: ${noServer}`);

describe.skipIf(noServer !== undefined)("the log of a request (skipped without Valkey)", () => {
  let server: ValkeyServer;
  let connection: Connection;
  let redis: ScriptedRedis;
  let logs: WorkerLogs;
  let numRequests = 0;
  const newId = (): string => `request-${++numRequests}.job`;
  const append = (requestId: string, entries: Omit<Append, "requestId">): Promise<AppendOutcome> =>
    logs.append({ requestId, ...entries });

  beforeAll(async () => {
    server = await startValkey();
    connection = openConnection(parseFleetUrl(server.url));
    redis = withScripts(connection.redis);
    logs = new WorkerLogs(redis);
  });

  afterAll(async () => {
    connection.close();
    await server.stop();
  });

  test("has each entry at its place, and publishes it once", async () => {
    const id = newId();
    await server.redis.set(jobOfKey(requestIdOf(id)), id, "PX", 3_600_000);
    const heard: string[] = [];
    const listening = server.redis.duplicate();
    await listening.subscribe(`${FRONT_PREFIX}front`);
    await redis.hset(requestKeys(id).meta, "reader", readerName("front", "one"));
    listening.on("message", (_, message: string) => heard.push(message));
    const { owner, entries } = await claimRequest(redis, id, "a");
    expect(entries).toEqual([]);
    const first = { owner, place: 1, entries: ["x", "y"], isEnd: false };
    expect(await append(id, first)).toEqual({ kind: "appended" });
    // A repeated command, and one that overlaps.
    expect(await append(id, first)).toEqual({ kind: "appended" });
    expect(await append(id, { owner, place: 2, entries: ["y", "z z"], isEnd: true })).toEqual({
      kind: "appended",
    });
    expect(await readEntries(redis, id, 0)).toEqual([
      [1, "x"],
      [2, "y"],
      [3, "z z"],
    ]);
    expect(await readEntries(redis, id, 2)).toEqual([[3, "z z"]]);
    await expect.poll(() => heard.flatMap(readNews)).toHaveLength(3);
    expect(heard.flatMap(readNews)).toEqual([
      { jobId: id, place: 1, entry: "x" },
      { jobId: id, place: 2, entry: "y" },
      { jobId: id, place: 3, entry: "z z" },
    ]);
    for (const key of [requestKeys(id).log, jobOfKey(requestIdOf(id))]) {
      expect(await server.redis.pttl(key)).toBeLessThanOrEqual(600_000);
    }
    listening.disconnect();
  });

  test("takes entries of many requests at once, tells each front in one message, and stops a damaged log only", async () => {
    const [first, second, elsewhere, unread, damaged] = [newId(), newId(), newId(), newId(), newId()];
    const heard: (readonly [string, string])[] = [];
    const listening = server.redis.duplicate();
    await listening.subscribe(`${FRONT_PREFIX}a`, `${FRONT_PREFIX}b`);
    listening.on("message", (channel: string, message: string) => heard.push([channel, message]));
    for (const id of [first, second, elsewhere]) {
      await redis.hset(requestKeys(id).meta, "reader", readerName(id === elsewhere ? "b" : "a", "one"));
    }
    const claims = new Map<string, Claim>();
    for (const id of [first, second, elsewhere, unread, damaged]) claims.set(id, await claimRequest(redis, id, "w"));
    const all = (place: number): Promise<readonly PromiseSettledResult<AppendOutcome>[]> =>
      Promise.allSettled(
        Array.from(claims, ([id, { owner }]) => append(id, { owner, place, entries: [`${place}`], isEnd: false })),
      );
    const appended = { status: "fulfilled", value: { kind: "appended" } };
    expect(await all(1)).toEqual(Array.from(claims, () => appended));
    await server.redis.ping();
    expect(heard.toSorted(([a], [b]) => a.localeCompare(b))).toEqual([
      [`${FRONT_PREFIX}a`, `${first} 1 1\n${second} 1 1`],
      [`${FRONT_PREFIX}b`, `${elsewhere} 1 1`],
    ]);
    await server.redis.set(requestKeys(damaged).log, "a text");
    const outcomes = await all(2);
    expect(outcomes.slice(0, 4)).toEqual(Array.from({ length: 4 }, () => appended));
    expect(outcomes[4]).toMatchObject({ status: "rejected" });
    for (const id of [first, second, elsewhere, unread]) expect(await readEntries(redis, id, 0)).toHaveLength(2);
    listening.disconnect();
  });

  test("refuses another entry at a place, and one beyond a gap", async () => {
    const id = newId();
    const { owner } = await claimRequest(redis, id, "a");
    await append(id, { owner, place: 1, entries: ["x"], isEnd: false });
    expect(await append(id, { owner, place: 1, entries: ["other"], isEnd: false })).toEqual({
      kind: "different",
    });
    expect(await append(id, { owner, place: 3, entries: ["z"], isEnd: false })).toEqual({
      kind: "gap",
      last: 1,
    });
    expect(await readEntries(redis, id, 0)).toEqual([[1, "x"]]);
  });

  test("takes nothing from an earlier owner", async () => {
    const id = newId();
    const before = await claimRequest(redis, id, "a");
    await append(id, { owner: before.owner, place: 1, entries: ["x"], isEnd: false });
    const after = await claimRequest(redis, id, "b");
    expect(after.entries).toEqual(["x"]);
    expect(await append(id, { owner: before.owner, place: 2, entries: ["y"], isEnd: false })).toEqual({
      kind: "foreign",
    });
    expect(await append(id, { owner: after.owner, place: 2, entries: ["y"], isEnd: false })).toEqual({
      kind: "appended",
    });
  });

  test("takes nothing after it was cancelled, and says so to the next owner", async () => {
    const id = newId();
    await server.redis.set(jobOfKey(requestIdOf(id)), id, "PX", 3_600_000);
    const { owner } = await claimRequest(redis, id, "a");
    await cancelRequest(redis, id, "reader");
    expect(await server.redis.pttl(jobOfKey(requestIdOf(id)))).toBeLessThanOrEqual(600_000);
    expect(await append(id, { owner, place: 1, entries: ["x"], isEnd: false })).toEqual({
      kind: "cancelled",
    });
    expect((await claimRequest(redis, id, "b")).isCancelled).toBe(true);
  });

  test("gets again what the server has lost", async () => {
    const id = newId();
    const ends: WriteEnd[] = [];
    const claim = await claimRequest(redis, id, "a");
    const writer = new LogWriter(logs, id, claim, (end) => ends.push(end));
    for (const entry of ["a", "b", "c"]) writer.add(entry, false);
    await writer.flush();
    // The primary dies before its last two entries, and the owner, reach the replica.
    await server.redis.del(requestKeys(id).log, requestKeys(id).meta);
    await server.redis.xadd(requestKeys(id).log, "1-0", "e", "a");
    writer.add("d", true);
    await writer.flush();
    expect((await readEntries(redis, id, 0)).map(([, entry]) => entry)).toEqual(["a", "b", "c", "d"]);
    await server.redis.del(requestKeys(id).log);
    const next = new LogWriter(logs, id, { ...claim, entries: ["a", "b", "c", "d"] }, (end) => ends.push(end));
    next.add("e", true);
    await next.flush();
    expect((await readEntries(redis, id, 0)).map(([, entry]) => entry)).toEqual(["a", "b", "c", "d", "e"]);
    expect(ends).toEqual([]);
  });

  test("is one answer, however often owners change while they write", async () => {
    const random = seededRandom(7);
    for (let round = 0; round < 20; round++) {
      const id = newId();
      const answer = Array.from({ length: 30 }, (_, index) => `entry ${index}`);
      const zombies: LogWriter[] = [];
      for (;;) {
        const claim = await claimRequest(redis, id, `worker-${zombies.length}`);
        const writer = new LogWriter(logs, id, claim, () => undefined);
        const upTo = Math.min(answer.length, claim.entries.length + Math.floor(8 * random()));
        for (let place = claim.entries.length; place < upTo; place++)
          writer.add(answer[place]!, place === answer.length - 1);
        // Half of the owners lose the request while they still write.
        if (random() < 0.5) await writer.flush();
        // A worker that was frozen goes on where it was.
        for (const zombie of zombies) zombie.add(`zombie ${round}`, false);
        zombies.push(writer);
        if (upTo === answer.length && (await claimRequest(redis, id, "reader")).entries.length === answer.length) break;
      }
      expect((await readEntries(redis, id, 0)).map(([, entry]) => entry)).toEqual(answer);
    }
  });
});
