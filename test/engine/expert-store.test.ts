// Units in memory with a simulated reader that is slow, fails, and ends reads in any order. Decisions never depend on
// it.

import { readFile } from "node:fs/promises";
import { EVICTION_POLICIES } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import type { ExpertStore, ExpertStoreOptions, UnitSource } from "../../packages/engine/src/experts/expert-store.ts";
import { NamedExperts, type StepKernel } from "../../packages/engine/src/experts/named-experts.ts";
import { UnitPlaces } from "../../packages/engine/src/experts/unit-places.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const LAYER_BYTES = [64, 96, 64];
const NUM_EXPERTS = 4;
const LEAST = NUM_EXPERTS * 96;

type Read = UnitSource["read"];

/** A read that fills a unit with its number. */
const fill: Read = async (layer, expert, into) => void into.fill(10 * layer + expert + 1);

/** Reads that end when the test releases them. */
class HeldReads {
  readonly #waiting: (() => void)[] = [];

  readonly read: Read = async (layer, expert, into) => {
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
    await fill(layer, expert, into);
  };

  get numWaiting(): number {
    return this.#waiting.length;
  }

  release(place: number): void {
    this.#waiting.splice(place, 1)[0]?.();
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Releases reads, in any order, until `work` has ended. */
async function whileReading<Result>(held: HeldReads, random: () => number, work: Promise<Result>): Promise<Result> {
  let isOver = false;
  const over = work.finally(() => (isOver = true));
  over.catch(() => undefined);
  for (;;) {
    await turn();
    if (isOver) return over;
    held.release(randomInteger(random, held.numWaiting));
  }
}

function someRuns(random: () => number, count: number): readonly (readonly number[])[] {
  const all = Array.from({ length: NUM_EXPERTS }, (_, expert) => expert);
  return Array.from({ length: count }, () => all.filter(() => random() < 0.5));
}

/** A kernel that checks the bytes of each expert that a layer needs. */
class PlainKernel implements StepKernel {
  experts: readonly number[] = [];
  /** Called for each expert of a layer that runs by itself. */
  between = (): void => undefined;
  readonly #placed = new Map<string, Uint8Array>();

  place(layer: number, expert: number, unit: Uint8Array | undefined): void {
    if (unit) this.#placed.set(`${layer} ${expert}`, unit);
    else expect(this.#placed.delete(`${layer} ${expert}`)).toBe(true);
  }

  step(): void {
    for (const layer of LAYER_BYTES.keys()) for (const expert of this.experts) this.#check(layer, expert);
  }

  beginStep(): void {
    return;
  }

  runLayers(layer: number): void {
    for (const expert of this.experts) {
      this.between();
      this.#check(layer, expert);
    }
  }

  endStep(): void {
    return;
  }

  #check(layer: number, expert: number): void {
    const bytes = Array.from(this.#placed.get(`${layer} ${expert}`) ?? []);
    expect(bytes).toEqual(Array(LAYER_BYTES[layer] as number).fill(10 * layer + expert + 1));
  }

  get placed(): readonly string[] {
    return Array.from(this.#placed.keys());
  }
}

class Bench {
  readonly kernel = new PlainKernel();
  readonly experts: NamedExperts;

  constructor(read: Read, options: Partial<ExpertStoreOptions> = {}) {
    const place = this.kernel.place.bind(this.kernel);
    const source = { numExperts: NUM_EXPERTS, layerBytes: LAYER_BYTES, read, place };
    this.experts = new NamedExperts(this.kernel, source, { budgetBytes: LEAST, ...options });
  }

  get store(): ExpertStore {
    return this.experts.store;
  }

  /** Runs a step of one call. */
  async run(experts: readonly number[], between: () => void = () => undefined): Promise<void> {
    Object.assign(this.kernel, { experts, between });
    this.experts.expectCalls([experts]);
    await this.experts.step({} as never, new Int32Array(0), {} as never, experts);
    this.store.cache.checkIntegrity();
  }

  /** Announces upcoming uses as an engine does. */
  async serve(runs: readonly (readonly number[])[], between?: () => void): Promise<void> {
    for (const [at, experts] of runs.entries()) {
      const laterSteps = Array.from({ length: NUM_EXPERTS }, (_, expert) => {
        const ahead = runs.slice(at + 1).findIndex((run) => run.includes(expert));
        return ahead < 0 ? Infinity : ahead + 1;
      });
      this.prepare(at % 2 === 0 ? (runs[at + 1] ?? []) : [], Float64Array.from(laterSteps));
      await this.run(experts, between);
    }
  }

  prepare(planned: readonly number[], laterSteps: Float64Array): void {
    this.experts.residency.streamed?.prepare({ planned, laterSteps });
  }
}

describe("a slow disk", () => {
  test.each(EVICTION_POLICIES)("changes no counter, %s", async (policy) => {
    for (let seed = 0; seed < 12; seed++) {
      const options = { policy, budgetBytes: LEAST + 64 * (seed % 5), lookaheadLayers: seed % 4 };
      const runs = someRuns(seededRandom(seed), 12);
      const fast = new Bench(fill, options);
      await fast.serve(runs);
      for (let order = 0; order < 3; order++) {
        const held = new HeldReads();
        const slow = new Bench(held.read, options);
        await whileReading(held, seededRandom(100 * seed + order), slow.serve(runs));
        expect(slow.store.cache.counters).toEqual(fast.store.cache.counters);
        const { streamed } = slow.experts.residency;
        expect(streamed?.takeRuns()).toEqual(
          runs.map((experts, at) => ({ experts, planned: at % 2 === 0 ? (runs[at + 1] ?? []) : [] })),
        );
        expect(streamed?.takeRuns()).toEqual([]);
      }
    }
  });

  test("delays only the layer that needs it, and that time is counted", async () => {
    let nowMs = 0;
    const held = new HeldReads();
    const { store } = new Bench(held.read, { now: () => nowMs, budgetBytes: 2 * LEAST });
    const running = LAYER_BYTES.map(() => [1]);
    store.enter({ layer: 0, running });
    expect(held.numWaiting).toBe(3);
    const ran = store.run(() => undefined);
    nowMs = 7;
    held.release(0);
    await ran;
    expect(store.stats).toMatchObject({ stallMs: 7, loads: 3, usedBytes: 224, failedReads: 0 });
    expect(held.numWaiting).toBe(2);
    held.release(0);
    await turn();
    nowMs = 20;
    store.enter({ layer: 1, running });
    await store.run(() => undefined);
    expect(store.stats.stallMs).toBe(7);
  });
});

test("an abandoned plan takes no more memory, also while its reads are in progress", async () => {
  let numWasted = 0;
  for (let seed = 0; seed < 40; seed++) {
    const random = seededRandom(seed);
    const held = new HeldReads();
    const bench = new Bench(
      async (layer, expert, into) => {
        expect(bench.store.takenBytes).toBeLessThanOrEqual(LEAST);
        await held.read(layer, expert, into);
      },
      { lookaheadLayers: 3 },
    );
    const plans = someRuns(random, 15);
    const runs = someRuns(random, 15);
    const served = async (): Promise<void> => {
      for (const [at, experts] of runs.entries()) {
        bench.prepare(plans[at] as readonly number[], new Float64Array(NUM_EXPERTS).fill(2));
        await bench.run(experts, () => expect(bench.store.takenBytes).toBeLessThanOrEqual(LEAST));
      }
    };
    await whileReading(held, random, served());
    numWasted += bench.store.stats.wastedLoads;
  }
  expect(numWasted).toBeGreaterThan(0);
});

describe("a budget that changes", () => {
  test("never exceeds the limit under load, and every unit has its own weights", async () => {
    for (let seed = 0; seed < 40; seed++) {
      const random = seededRandom(seed);
      const held = new HeldReads();
      const policy = EVICTION_POLICIES[seed % EVICTION_POLICIES.length];
      const bench = new Bench(held.read, { policy, budgetBytes: LEAST, lookaheadLayers: 1 + (seed % 3) });
      const { store } = bench;
      let limit = LEAST;
      let numShrinking = 0;
      const change = (): void => {
        expect(store.stats.usedBytes).toBeLessThanOrEqual(limit);
        if (numShrinking === 0) expect(store.takenBytes).toBeLessThanOrEqual(limit);
        if (random() > 0.3) return;
        limit = LEAST + randomInteger(random, 600);
        numShrinking++;
        void store.setBudget(limit).then(() => numShrinking--);
        store.cache.checkIntegrity();
      };
      await whileReading(held, random, bench.serve(someRuns(random, 15), change));
      while (held.numWaiting > 0) held.release(0);
      await turn();
      expect(numShrinking).toBe(0);
      expect(store.takenBytes).toBeLessThanOrEqual(limit);
      expect(store.stats.budgetBytes).toBe(limit);
      store.cache.checkIntegrity();
      // The kernel has what is in memory, and nothing else.
      const inMemory = store.cache.state.units.map(({ layer, expert }) => `${layer} ${expert}`);
      expect(bench.kernel.placed.toSorted()).toEqual(inMemory.toSorted());
    }
  });

  test("evicts idle units at once between steps", async () => {
    const bench = new Bench(fill, { budgetBytes: 4 * 224 });
    const { store } = bench;
    await bench.serve([[0, 1, 2, 3]]);
    expect(store.takenBytes).toBe(4 * 224);
    const shrinking = store.setBudget(LEAST);
    expect(store.takenBytes).toBeLessThanOrEqual(LEAST);
    await shrinking;
    await bench.serve([[0, 1, 2, 3]]);
    expect(store.takenBytes).toBeLessThanOrEqual(LEAST);
    await store.setBudget(4 * 224);
    await bench.serve([[0, 1, 2, 3]]);
    expect(store.takenBytes).toBe(4 * 224);
  });

  test("is rejected below one layer of all experts, naming the minimum, and the old one stays", async () => {
    const { store } = new Bench(fill);
    const message =
      "Expected `expertCacheBytes` to be at least 384 bytes, which a step of all experts needs at once, got `383`";
    await expect(store.setBudget(LEAST - 1)).rejects.toThrow(new RangeError(message));
    expect(() => new Bench(fill, { budgetBytes: LEAST - 1 })).toThrow(new RangeError(message));
    expect(store.stats.budgetBytes).toBe(LEAST);
  });
});

test("rehearsed steps leave nothing behind and report nothing", async () => {
  const told: string[] = [];
  const held = new HeldReads();
  const bench = new Bench(held.read, {
    budgetBytes: LEAST + 200,
    onLoaded: () => told.push("loaded"),
    onEvicted: () => told.push("evicted"),
  });
  const random = seededRandom(1);
  const runs = someRuns(random, 8);
  const { store } = bench;
  const result = store.rehearse(async () => {
    await bench.serve(runs);
    return store.stats.loads;
  });
  expect(await whileReading(held, random, result)).toBeGreaterThan(0);
  expect(told).toEqual([]);
  const zeros = { loads: 0, uses: 0, evictions: 0, usedBytes: 0, stallMs: 0, budgetBytes: LEAST + 200 };
  expect(store.stats).toMatchObject(zeros);
  expect(bench.kernel.placed).toEqual([]);
  const fresh = new Bench(fill, { budgetBytes: LEAST + 200 });
  await fresh.serve(runs);
  await whileReading(held, random, bench.serve(runs));
  expect(store.cache.counters).toEqual(fresh.store.cache.counters);
  expect(told.filter((event) => event === "loaded")).toHaveLength(store.stats.loads);
});

describe("reads that fail", () => {
  test("fail the layer that needs them, and are tried again by the next one", async () => {
    let allFailed = 0;
    for (let seed = 0; seed < 30; seed++) {
      const random = seededRandom(seed);
      const failing = seededRandom(seed + 1000);
      const held = new HeldReads();
      const bench = new Bench(
        async (layer, expert, into) => {
          await held.read(layer, expert, into);
          if (failing() < 0.15) throw new Error("The disk is gone");
        },
        { budgetBytes: LEAST + 200, lookaheadLayers: 2 },
      );
      let numFailed = 0;
      for (const experts of someRuns(random, 15)) {
        await whileReading(held, random, bench.run(experts)).catch((error: unknown) => {
          expect(error).toMatchObject({ message: "The disk is gone" });
          numFailed++;
        });
        bench.store.cache.checkIntegrity();
        expect(bench.store.takenBytes).toBeLessThanOrEqual(LEAST + 200);
      }
      expect(bench.store.stats.failedReads).toBeGreaterThanOrEqual(numFailed);
      allFailed += numFailed;
    }
    expect(allFailed).toBeGreaterThan(30);
  });
});

test("memory that is given up returns to the system at once", async () => {
  const [unitBytes, count] = [1 << 20, 64];
  const places = new UnitPlaces(count * unitBytes, unitBytes);
  const taken = Array.from({ length: count }, () => places.take(unitBytes));
  for (const memory of taken) memory.fill(1);
  const before = await privateBytes();
  for (const memory of taken) places.release(memory);
  expect(places.bytes).toBe(count * unitBytes);
  places.setLimit(4 * unitBytes);
  expect(places.bytes).toBe(4 * unitBytes);
  expect(before - (await privateBytes())).toBeGreaterThan(0.8 * 60 * unitBytes);
  // Memory that was given up is reused when needed, and is zero.
  places.setLimit(count * unitBytes);
  const again = Array.from({ length: count }, () => places.take(unitBytes));
  expect(again.filter((memory) => memory[0] === 0).length).toBeGreaterThanOrEqual(60);
});

async function privateBytes(): Promise<number> {
  const status = await readFile("/proc/self/status", "utf8");
  return 1024 * Number(/RssAnon:\s+(\d+)/.exec(status)?.[1]);
}
