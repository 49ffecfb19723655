// The queues of a fleet in a real server: fronts and workers that come and go at random, against a plain list.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { affinitiesOf } from "../../packages/fleet/src/affinity.ts";
import { type Connection, openConnection, parseFleetUrl } from "../../packages/fleet/src/connect.ts";
import { FleetView } from "../../packages/fleet/src/front/fleet-view.ts";
import { writeJob } from "../../packages/fleet/src/job.ts";
import { withScripts } from "../../packages/fleet/src/log/scripts.ts";
import { JobAdder, JobTaker, peekQueues, type TakenJob, waitingKeysOf } from "../../packages/fleet/src/job-queues.ts";
import { describeWorker, EngineMeasure } from "../../packages/fleet/src/worker/describe-worker.ts";
import { newCounters, publishState, withdrawState } from "../../packages/fleet/src/worker/state.ts";
import * as fc from "../support/fast-check.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";

if (noServer !== undefined) console.log(`The tests of a fleet's queues did not run: ${noServer}`);

const AFFINITIES = ["e0", "e1"];
const LOCKS = { lockMs: 600_000, stalledMs: 600_000 };

/** A job of the plain list. Jobs of a priority leave in the order of `place`, those that came back first. */
interface PlainJob {
  readonly id: string;
  readonly affinity: string;
  readonly priority: number;
  place: number;
  worker: number | undefined;
  isLocked: boolean;
}

const places = fc.record({ id: fc.nat(5), affinity: fc.constantFrom(...AFFINITIES) });
const ops = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant("add" as const),
        at: places,
        priority: fc.integer({ min: -1, max: 1 }),
      }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant("take" as const), at: places, worker: fc.nat(1) }) },
    fc.record({ kind: fc.constantFrom("complete", "give back", "lose the lock"), at: fc.nat() }),
    fc.record({ kind: fc.constantFrom("remove", "look"), at: places }),
    fc.record({ kind: fc.constantFrom("renew", "restart the worker"), worker: fc.nat(1) }),
    fc.record({ kind: fc.constant("restart the front" as const) }),
  ),
  { minLength: 10, maxLength: 60, size: "max" },
);

describe.skipIf(noServer !== undefined)("the queues of a fleet", () => {
  let server: ValkeyServer;
  const connections: Connection[] = [];
  const open = (): ReturnType<typeof withScripts> => {
    const connection = openConnection(parseFleetUrl(server.url));
    connections.push(connection);
    return withScripts(connection.redis);
  };

  beforeAll(async () => {
    server = await startValkey();
  });
  afterAll(async () => {
    for (const { close } of connections) close();
    await server.stop();
  });

  test("hold each job once, and give it to one worker at a time, first the most urgent", async () => {
    const [forFronts, ...forWorkers] = [open(), open(), open()] as const;
    const newFront = (): JobAdder => new JobAdder(forFronts, { contextTokens: 100 });
    let numRuns = 0;
    await fc.assert(
      fc.asyncProperty(ops, async (all) => {
        const modelVersion = `model-${++numRuns}`;
        const newWorker = (worker: number): JobTaker =>
          new JobTaker(forWorkers[worker] ?? forFronts, modelVersion, AFFINITIES, LOCKS);
        let front = newFront();
        const workers = [newWorker(0), newWorker(1)];
        let jobs: PlainJob[] = [];
        const taken = new Map<PlainJob, TakenJob>();
        let clock = 0;
        const waiting = (affinity: string): readonly PlainJob[] =>
          jobs
            .filter((job) => job.affinity === affinity && job.worker === undefined)
            .toSorted((a, b) => b.priority - a.priority || a.place - b.place || (a.id < b.id ? -1 : 1));
        const idOf = ({ id, affinity }: { id: number; affinity: string }): string =>
          `${modelVersion}-${affinity}-${id}.job`;
        for (const op of all) {
          switch (op.kind) {
            case "add": {
              const { affinity } = op.at;
              const id = idOf(op.at);
              const job = writeJob({ id, promptIds: [1], params: { seed: 1 }, priority: op.priority });
              await front.add(job, { modelVersion, affinity }, { reader: "a/b", maxWaitMs: 1000 });
              if (!jobs.some((one) => one.id === id)) {
                jobs.push({ id, affinity, priority: op.priority, place: ++clock, worker: undefined, isLocked: false });
              }
              break;
            }
            case "take": {
              const { affinity } = op.at;
              const [next] = waiting(affinity);
              const found = await workers[op.worker]?.take(affinity, `token-${++clock}`);
              expect(found?.job.id).toBe(next?.id);
              if (next && found) {
                taken.set(next, found);
                [next.worker, next.isLocked] = [op.worker, true];
              }
              break;
            }
            case "complete":
            case "give back":
            case "lose the lock": {
              const held = [...taken.keys()];
              const job = held[op.at % held.length];
              const own = job && taken.get(job);
              const worker = job && workers[job.worker ?? 0];
              if (!job || !own || !worker) break;
              if (op.kind === "lose the lock") {
                await server.redis.del(`readme-moe-q:${modelVersion}.${job.affinity}:${job.id}:lock`);
                job.isLocked = false;
                break;
              }
              const ended = op.kind === "complete" ? worker.complete(own) : worker.giveBack(own);
              if (!job.isLocked) {
                await expect(ended).rejects.toThrow(/^Missing lock for job/);
                break;
              }
              await ended;
              taken.delete(job);
              if (op.kind === "complete") jobs = jobs.filter((one) => one !== job);
              else [job.worker, job.isLocked, job.place] = [undefined, false, 0];
              break;
            }
            case "remove": {
              const id = idOf(op.at);
              await front.remove(id, { modelVersion, affinity: op.at.affinity });
              jobs = jobs.filter((one) => one.id !== id || one.worker !== undefined);
              break;
            }
            case "look": {
              const id = idOf(op.at);
              expect(await front.has(id, { modelVersion, affinity: op.at.affinity })).toBe(
                jobs.some((one) => one.id === id),
              );
              break;
            }
            case "renew": {
              const own = [...taken].filter(([job]) => job.worker === op.worker);
              const lost = await workers[op.worker]?.renew(own.map(([, one]) => one));
              const expected = own.filter(([job]) => !job.isLocked).map(([job]) => job.id);
              expect(lost?.map(({ job }) => job.id).toSorted()).toEqual(expected.toSorted());
              break;
            }
            case "restart the worker": {
              await workers[op.worker]?.close();
              workers[op.worker] = newWorker(op.worker);
              break;
            }
            case "restart the front":
              await front.close();
              front = newFront();
              break;
            default:
              throw new TypeError(`Unknown operation: ${String(op satisfies never)}`);
          }
          const keys = { modelVersion, affinities: AFFINITIES, waitingKeys: waitingKeysOf(modelVersion, AFFINITIES) };
          const { queues } = await peekQueues(forFronts, { ...keys, mostJobs: 100 });
          expect(queues.map(({ key, next }) => [key, next.length])).toEqual(
            AFFINITIES.map((affinity) => [affinity, waiting(affinity).length]).filter(([, count]) => count !== 0),
          );
        }
        await Promise.all([front.close(), ...workers.map((worker) => worker.close())]);
      }),
      { numRuns: 15 },
    );
  });

  test("are seen by a front with the workers that are there, of the version with the most places", async () => {
    const redis = open();
    const versions = [
      { promptVersion: "p", modelVersion: "a" },
      { promptVersion: "p", modelVersion: "b" },
      { promptVersion: "q", modelVersion: "c" },
    ] as const;
    const info = { promptVersion: "p", experts: ["all"], expertKind: "ffn", contextTokens: 100 } as const;
    const [affinity = ""] = affinitiesOf(info);
    const states = fc.record({
      kind: fc.constant("publish" as const),
      id: fc.constantFrom("one", "two", "three"),
      version: fc.constantFrom(...versions),
      maxNumSeqs: fc.integer({ min: 1, max: 3 }),
      isDraining: fc.boolean(),
    });
    const leaving = fc.record({ kind: fc.constant("leave" as const), id: fc.constantFrom("one", "two", "three") });
    const others = fc.record({ kind: fc.constantFrom("add" as const, "restart" as const) });
    const happenings = fc.array(fc.oneof(states, leaving, others), { minLength: 8, maxLength: 30, size: "max" });
    await fc.assert(
      fc.asyncProperty(happenings, async (all) => {
        await server.redis.flushall();
        const told: string[] = [];
        const newView = (): FleetView => new FleetView(redis, info as never, ({ message }) => told.push(message));
        const front = new JobAdder(redis, info);
        const workers = new Map<string, Parameters<typeof publishState>[1]>();
        const waiting = new Map<string, number>();
        const expectedTold: (string | undefined)[] = [];
        let [view, current, numJobs, isNew] = [newView(), undefined as string | undefined, 0, true];
        for (const happening of all) {
          if (happening.kind === "publish") {
            const { id, version, maxNumSeqs, isDraining } = happening;
            const own = { precision: "int8", maxNumSeqs, kvCapacityTokens: 400 };
            const [measure, counters] = [new EngineMeasure(), newCounters()];
            const about = {
              id,
              ...version,
              info: own,
              publishedMs: 0,
              jobs: [],
              measure,
              pulls: 0,
              counters,
              homes: {},
            };
            workers.set(id, describeWorker({ ...about, isDraining }));
            await publishState(redis, describeWorker({ ...about, isDraining }));
          } else if (happening.kind === "leave") {
            workers.delete(happening.id);
            await withdrawState(redis, happening.id);
          } else if (happening.kind === "restart") {
            view.close();
            [view, current, isNew] = [newView(), undefined, true];
          } else if (current !== undefined) {
            const job = writeJob({ id: `r-${++numJobs}.job`, promptIds: [1], params: { seed: 1 } });
            await front.add(job, { modelVersion: current, affinity }, { reader: "a/b", maxWaitMs: 1000 });
            view.added();
            waiting.set(current, (waiting.get(current) ?? 0) + 1);
          }
          await view.refresh();
          const taking = [...workers.values()].filter(({ isDraining }) => !isDraining);
          const placesOf = (name: string): number =>
            taking.reduce((sum, one) => sum + (one.modelVersion === name ? one.maxNumSeqs : 0), 0);
          const [ofA, ofB] = [placesOf("a"), placesOf("b")];
          const stays = ofA === ofB && current === "b";
          current = ofA + ofB === 0 ? undefined : ofA > ofB || (ofA === ofB && !stays) ? "a" : "b";
          const { snapshot } = view;
          expect(snapshot.modelVersion).toBe(current);
          expect(snapshot.workers.map(({ id }) => id).toSorted()).toEqual(
            [...workers.values()]
              .filter((one) => one.modelVersion === current)
              .map(({ id }) => id)
              .toSorted(),
          );
          expect(snapshot.promptVersions).toEqual([...new Set(taking.map((one) => one.promptVersion))].toSorted());
          expect(view.numWaiting).toBe(current === undefined ? 0 : (waiting.get(current) ?? 0));
          expect(view.noWorker?.code).toBe(current === undefined ? "ERR_NO_WORKER" : undefined);
          const now = view.noWorker?.message;
          if (now !== undefined && (isNew || expectedTold.at(-1) !== now)) expectedTold.push(now);
          else if (now === undefined) expectedTold.push(undefined);
          isNew = false;
        }
        expect(told).toEqual(expectedTold.filter((message) => message !== undefined));
        view.close();
        await front.close();
      }),
      { numRuns: 15 },
    );
  });
});
