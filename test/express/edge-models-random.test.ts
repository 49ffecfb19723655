// Models that are opened, replaced, shared by two names, fail, come back and are drained, beside plain lists of them.

import { ReadMeEmitter, type Engine } from "@readme-moe/core";
import { ApiError, ServedModels, type Asking, type Lease } from "@readme-moe/express";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import * as fc from "../support/fast-check.ts";
import { FakeEngine, MAX_FAILURES, PlainModels, RESTART, type PlainUse } from "../support/plain-models.ts";

const ABOUT = { request: { headers: {} }, body: {} } as unknown as Asking;
const DRAIN_MS = 37;
const NAMES = ["a", "b", "c"] as const;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

const now = (): number => performance.now();

/** A server's models, its requests, and their plain counterparts. */
interface Served {
  readonly models: ServedModels;
  readonly plain: PlainModels;
  readonly events: unknown[];
  readonly fakes: FakeEngine[];
  readonly leases: {
    readonly lease: Lease;
    readonly use: PlainUse;
    readonly startedMs: number;
    isReleased: boolean;
    hasEnded: boolean;
  }[];
  loading: ((fake?: FakeEngine) => void) | undefined;
  numEnded: number | undefined;
  numSet: { asked: number; done: number };
}

const ALIASES = { x: "a", y: "b" } as const;
let numFakes = 0;

function serve(isRestarting: boolean): Served {
  const bus = new ReadMeEmitter();
  const events: unknown[] = [];
  bus.on("model:swapped", ({ name, path, previousPath }) => events.push(["model:swapped", name, path, previousPath]));
  bus.on("engine:given-up", ({ name, attempts }) => events.push(["engine:given-up", name, attempts]));
  bus.on("engine:restarted", ({ name, attempts }) => events.push(["engine:restarted", name, attempts]));
  bus.on("engine:restart-failed", ({ name, attempts, retryInMs }) =>
    events.push(["engine:restart-failed", name, attempts, retryInMs]),
  );
  bus.on("engine:failing", ({ name, failures }) => events.push(["engine:failing", name, failures]));
  bus.on("engine:recovered", ({ name }) => events.push(["engine:recovered", name]));
  const fake = new FakeEngine(`/${numFakes++}`);
  let settle: ((source: Engine | Error) => void) | undefined;
  const source = new Promise<Engine>((resolve, reject) => {
    settle = (found) => (found instanceof Error ? reject(found) : resolve(found));
  });
  const options = { aliases: ALIASES, events: bus, maxFailures: MAX_FAILURES, restart: isRestarting && RESTART };
  const models = new ServedModels({ a: fake.engine, b: source }, options);
  const plain = new PlainModels(isRestarting);
  plain.serve("a", fake, true);
  plain.modelOf("b");
  const loading = (opened?: FakeEngine): void => settle?.(opened?.engine ?? new Error("no such file"));
  return {
    models,
    plain,
    events,
    fakes: [fake],
    leases: [],
    loading,
    numEnded: undefined,
    numSet: { asked: 0, done: 0 },
  };
}

const codeOf = (error: unknown): string => {
  if (error instanceof ApiError) return error.code ?? `${error.status}`;
  throw error;
};

const eventsOf = (events: readonly unknown[], name: string): readonly unknown[] =>
  events.filter((event) => (event as [string, string])[1] === name);

const flush = async (): Promise<void> => void (await vi.advanceTimersByTimeAsync(0));

/** Compares all that can be seen of a server. */
function compare({ models, plain, events, fakes, numEnded }: Served): void {
  const all = [...plain.models.values()];
  expect(models.states()).toStrictEqual(
    all.map(({ name, state, code }) => ({ name, state, ...(code !== undefined && { code }) })),
  );
  const open = models.list().map(({ name, engine, aliases, experts }) => ({ name, engine, aliases, experts }));
  expect(open.map((one) => ({ ...one, engine: (one.engine as unknown as FakeEngine).path }))).toStrictEqual(
    all.flatMap(({ name, use }) => {
      const aliases = Object.entries(ALIASES).flatMap(([alias, of]) => (of === name ? [alias] : []));
      return use ? [{ name, engine: use.fake.path, aliases, experts: [] }] : [];
    }),
  );
  expect([models.numLeases, models.isDraining, numEnded]).toStrictEqual([
    plain.numLeases,
    plain.drain !== undefined,
    plain.drain?.numEnded,
  ]);
  expect(fakes.filter(({ isDisposed }) => isDisposed)).toStrictEqual(fakes.filter((fake) => plain.disposed.has(fake)));
  expect(fakes.filter(({ isUp }) => !isUp)).toStrictEqual(fakes.filter((fake) => plain.down.has(fake)));
  // Events of two models have no order among each other.
  for (const { name } of all) expect(eventsOf(events, name)).toStrictEqual(eventsOf(plain.events, name));
}

test("two servers of models do what plain lists of them do, whatever fails, is replaced, shared and drained", async () => {
  const kinds = [
    ..."lease lease lease lease lease lease release answer answer answer fault fault fault fault fault neither".split(
      " ",
    ),
    ..."set share crash wait wait spoil load drain".split(" "),
  ];
  const move = fc.record({
    kind: fc.constantFrom(...kinds),
    which: fc.nat(1),
    pick: fc.nat(),
    flag: fc.boolean(),
    rare: fc.nat(9),
  });
  const seen = new Map<string, number>();
  const count = (what: string): void => void seen.set(what, (seen.get(what) ?? 0) + 1);
  await fc.assert(
    fc.asyncProperty(fc.array(move, { minLength: 60, maxLength: 100, size: "max" }), async (moves) => {
      vi.clearAllTimers();
      const servers = [serve(true), serve(false)];
      await flush();
      for (const { kind, which, pick, flag, rare } of moves) {
        const server = servers[which] as Served;
        const { models, plain, leases, fakes } = server;
        const isEnding = kind === "answer" || kind === "fault" || kind === "neither";
        // Mostly of requests that have not told their end.
        const told = leases.filter(({ hasEnded }) => !isEnding || rare === 0 || !hasEnded);
        const one = told[pick % Math.max(1, told.length)];
        const usable = fakes.filter((fake) => !plain.disposed.has(fake));
        const fake = usable[pick % Math.max(1, usable.length)];
        const name = NAMES[pick % 3] as string;
        if (kind === "lease") {
          const asked = ["a", "x", "a", "b", "y", "c", "z", undefined][pick % 8];
          const model = plain.models.get(ALIASES[asked as "x"] ?? asked ?? "");
          const { state = "" } = model ?? {};
          const refusals = { failed: "model_failed", loading: "model_loading", restarting: "model_loading" } as const;
          const refusal = plain.drain
            ? "shutting_down"
            : asked === undefined
              ? "missing"
              : model
                ? refusals[state as "failed"]
                : "model_not_found";
          let outcome = "leased";
          try {
            const lease = models.lease(asked, ABOUT);
            const use = model?.use;
            expect([lease.name, lease.engine]).toStrictEqual([model?.name, use?.fake.engine]);
            if (!use) throw new Error("Expected a refusal");
            use.leases++;
            leases.push({ lease, use, startedMs: now(), isReleased: false, hasEnded: false });
          } catch (error) {
            outcome = codeOf(error);
          }
          count(outcome);
          expect(outcome).toBe(refusal === "missing" ? outcome : (refusal ?? "leased"));
          if (refusal === "missing") expect(outcome).not.toBe("leased");
        } else if (kind === "release" && one) {
          one.lease.release();
          if (!one.isReleased) one.use.leases--;
          one.isReleased = true;
          plain.settle();
        } else if (isEnding && one) {
          const refused = new ApiError({ status: 400, type: "invalid_request_error", message: "No" });
          one.lease.ended(kind === "answer" ? undefined : kind === "fault" ? new Error("broken") : refused);
          if (!one.hasEnded) plain.ended(one.use, one.startedMs, kind);
          one.hasEnded = true;
        } else if (kind === "set" || (kind === "share" && fake)) {
          const next = kind === "share" && fake ? fake : new FakeEngine(`/${numFakes++}`);
          if (kind === "set") fakes.push(next);
          const drainMs = rare < 3 ? DRAIN_MS : undefined;
          server.numSet.asked++;
          const setting = models.set(name, next.engine, { dispose: flag, drainMs }).then(() => "set", codeOf);
          if (plain.drain) expect(await setting).toBe("shutting_down");
          else plain.serve(name, next, flag, drainMs);
        } else if (kind === "crash" && fake?.isUp) {
          fake.crash();
          plain.crash(fake);
        } else if (kind === "spoil" && fake) fake.canRestart = !fake.canRestart;
        else if (kind === "load" && server.loading) {
          const opened = flag ? new FakeEngine(`/${numFakes++}`) : undefined;
          if (opened) fakes.push(opened);
          server.loading(opened);
          server.loading = undefined;
          const model = plain.modelOf("b");
          if (opened && (plain.drain || model.use)) plain.disposed.add(opened);
          else if (opened) plain.serve("b", opened, true);
          else if (!model.use) plain.fail(model);
        } else if (kind === "drain" && rare === 0) {
          const deadlineMs = flag ? 0 : 53;
          void models.drain({ deadlineMs }).then((numEnded) => (server.numEnded = numEnded));
          plain.beginDrain(deadlineMs);
        } else if (kind === "drain" && plain.drain?.numEnded !== undefined) {
          // The server starts again.
          servers[which] = serve(which === 0);
        } else if (kind === "wait") {
          const untilMs = now() + ([1, 40, 100, 200, 600][pick % 5] as number);
          for (;;) {
            const dueMs = Math.min(untilMs, ...servers.map(({ plain: { nextDueMs } }) => nextDueMs));
            await vi.advanceTimersByTimeAsync(dueMs - now());
            for (const each of servers) each.plain.settle();
            if (dueMs === untilMs) break;
          }
        }
        await flush();
        for (const each of kind === "wait" ? servers : [servers[which] as Served]) compare(each);
      }
      for (const { events } of servers) for (const [event] of events as [string][]) count(event);
    }),
    { numRuns: 50 },
  );
  const wanted = [
    "engine:failing",
    "engine:given-up",
    "engine:recovered",
    "engine:restart-failed",
    "engine:restarted",
    "leased",
    "model:swapped",
    "model_failed",
    "model_loading",
    "model_not_found",
    "shutting_down",
  ];
  expect(
    wanted.filter((what) => (seen.get(what) ?? 0) < 3),
    JSON.stringify([...seen]),
  ).toStrictEqual([]);
});
