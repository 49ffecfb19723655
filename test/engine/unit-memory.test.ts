// Units in memory with a simulated reader that is slow, fails, and ends reads in any order. Decisions never depend on
// it.

import { readFile } from "node:fs/promises";
import { EVICTION_POLICIES, type ExpertCacheCounters } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { UnitMemory, type UnitMemoryOptions, type UnitReader } from "../../packages/engine/src/streamed/unit-store.ts";
import { UnitPlaces } from "../../packages/engine/src/streamed/unit-places.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const LAYER_BYTES = [64, 96, 64];
const NUM_EXPERTS = 4;
const LEAST = NUM_EXPERTS * 96;

type Read = UnitReader["read"];

function readerOf(read: Read): UnitReader {
  return {
    numExperts: NUM_EXPERTS,
    layerBytes: LAYER_BYTES,
    read,
  };
}

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

/** Runs once through all layers, and checks each expert's weights. */
async function runAll(memory: UnitMemory, experts: readonly number[], between: () => void = () => undefined) {
  for (const layer of LAYER_BYTES.keys()) {
    memory.enterLayer(layer, experts);
    const ran: number[] = [];
    await memory.runLayer(async (units) => {
      for (const [expert, weights] of units) {
        between();
        await turn();
        expect(Array.from(weights)).toEqual(
          Array.from({ length: LAYER_BYTES[layer] as number }, () => 10 * layer + expert + 1),
        );
        ran.push(expert);
      }
    });
    expect(ran).toEqual(experts);
    memory.cache.checkIntegrity();
  }
}

function memoryOf(read: Read, options: Partial<UnitMemoryOptions> = {}): UnitMemory {
  return new UnitMemory(readerOf(read), { budgetBytes: LEAST, ...options });
}

/** Announces upcoming uses as an engine does. */
async function serve(memory: UnitMemory, runs: readonly (readonly number[])[], between?: () => void): Promise<void> {
  for (const [at, experts] of runs.entries()) {
    const laterSteps = Array.from({ length: NUM_EXPERTS }, (_, expert) => {
      const ahead = runs.slice(at + 1).findIndex((run) => run.includes(expert));
      return ahead < 0 ? Infinity : ahead + 1;
    });
    memory.prepare({ planned: at % 2 === 0 ? (runs[at + 1] ?? []) : [], laterSteps: Float64Array.from(laterSteps) });
    memory.expectRuns([experts]);
    await runAll(memory, experts, between);
  }
}

describe("a slow disk", () => {
  test.each(EVICTION_POLICIES)("changes no counter, %s", async (policy) => {
    for (let seed = 0; seed < 12; seed++) {
      const options = { policy, budgetBytes: LEAST + 64 * (seed % 5), lookaheadLayers: seed % 4 };
      const runs = someRuns(seededRandom(seed), 12);
      const fast = memoryOf(fill, options);
      await serve(fast, runs);
      for (let order = 0; order < 3; order++) {
        const held = new HeldReads();
        const slow = memoryOf(held.read, options);
        await whileReading(held, seededRandom(100 * seed + order), serve(slow, runs));
        expect(countersOf(slow)).toEqual(countersOf(fast));
        expect(slow.takeRuns()).toEqual(
          runs.map((experts, at) => ({ experts, planned: at % 2 === 0 ? (runs[at + 1] ?? []) : [] })),
        );
        expect(slow.takeRuns()).toEqual([]);
      }
    }
  });

  test("delays only the layer that needs it, and that time is counted", async () => {
    let nowMs = 0;
    const held = new HeldReads();
    const memory = memoryOf(held.read, { now: () => nowMs, budgetBytes: 2 * LEAST });
    memory.enterLayer(0, [1]);
    expect(held.numWaiting).toBe(3);
    const running = memory.runLayer(async () => undefined);
    nowMs = 7;
    held.release(0);
    await running;
    expect(memory.stats).toMatchObject({ stallMs: 7, loads: 3, usedBytes: 224, failedReads: 0 });
    expect(held.numWaiting).toBe(2);
    held.release(0);
    await turn();
    nowMs = 20;
    memory.enterLayer(1, [1]);
    await memory.runLayer(async () => undefined);
    expect(memory.stats.stallMs).toBe(7);
  });
});

test("an abandoned plan takes no more memory, also while its reads are in progress", async () => {
  let numWasted = 0;
  for (let seed = 0; seed < 40; seed++) {
    const random = seededRandom(seed);
    const held = new HeldReads();
    const memory = memoryOf(
      async (layer, expert, into) => {
        expect(memory.takenBytes).toBeLessThanOrEqual(LEAST);
        await held.read(layer, expert, into);
      },
      { lookaheadLayers: 3 },
    );
    const plans = someRuns(random, 15);
    const runs = someRuns(random, 15);
    const served = async (): Promise<void> => {
      for (const [at, experts] of runs.entries()) {
        memory.prepare({ planned: plans[at] as readonly number[], laterSteps: new Float64Array(NUM_EXPERTS).fill(2) });
        memory.expectRuns([experts]);
        await runAll(memory, experts, () => expect(memory.takenBytes).toBeLessThanOrEqual(LEAST));
      }
    };
    await whileReading(held, random, served());
    numWasted += memory.stats.wastedLoads;
  }
  expect(numWasted).toBeGreaterThan(0);
});

describe("a budget that changes", () => {
  test("never exceeds the limit under load, and every unit has its own weights", async () => {
    for (let seed = 0; seed < 40; seed++) {
      const random = seededRandom(seed);
      const held = new HeldReads();
      const policy = EVICTION_POLICIES[seed % EVICTION_POLICIES.length];
      const memory = memoryOf(held.read, { policy, budgetBytes: LEAST, lookaheadLayers: 1 + (seed % 3) });
      let limit = LEAST;
      let numShrinking = 0;
      const change = (): void => {
        expect(memory.stats.usedBytes).toBeLessThanOrEqual(limit);
        if (numShrinking === 0) expect(memory.takenBytes).toBeLessThanOrEqual(limit);
        if (random() > 0.3) return;
        limit = LEAST + randomInteger(random, 600);
        numShrinking++;
        void memory.setBudget(limit).then(() => numShrinking--);
        memory.cache.checkIntegrity();
      };
      await whileReading(held, random, serve(memory, someRuns(random, 15), change));
      while (held.numWaiting > 0) held.release(0);
      await turn();
      expect(numShrinking).toBe(0);
      expect(memory.takenBytes).toBeLessThanOrEqual(limit);
      expect(memory.stats.budgetBytes).toBe(limit);
      memory.cache.checkIntegrity();
    }
  });

  test("evicts idle units at once between steps", async () => {
    const memory = memoryOf(fill, { budgetBytes: 4 * 224 });
    await serve(memory, [[0, 1, 2, 3]]);
    expect(memory.takenBytes).toBe(4 * 224);
    const shrinking = memory.setBudget(LEAST);
    expect(memory.takenBytes).toBeLessThanOrEqual(LEAST);
    await shrinking;
    await serve(memory, [[0, 1, 2, 3]]);
    expect(memory.takenBytes).toBeLessThanOrEqual(LEAST);
    await memory.setBudget(4 * 224);
    await serve(memory, [[0, 1, 2, 3]]);
    expect(memory.takenBytes).toBe(4 * 224);
  });

  test("is rejected below one layer of all experts, naming the minimum, and the old one stays", async () => {
    const memory = memoryOf(fill);
    const message =
      "Expected `expertCacheBytes` to be at least 384 bytes, which a step of all experts needs at once, got `383`";
    await expect(memory.setBudget(LEAST - 1)).rejects.toThrow(new RangeError(message));
    expect(() => memoryOf(fill, { budgetBytes: LEAST - 1 })).toThrow(new RangeError(message));
    expect(memory.stats.budgetBytes).toBe(LEAST);
  });
});

test("rehearsed steps leave nothing behind and report nothing", async () => {
  const told: string[] = [];
  const held = new HeldReads();
  const memory = memoryOf(held.read, {
    budgetBytes: LEAST + 200,
    onLoaded: () => told.push("loaded"),
    onEvicted: () => told.push("evicted"),
  });
  const random = seededRandom(1);
  const runs = someRuns(random, 8);
  const result = memory.rehearse(async () => {
    await serve(memory, runs);
    return memory.stats.loads;
  });
  expect(await whileReading(held, random, result)).toBeGreaterThan(0);
  expect(told).toEqual([]);
  const zeros = { loads: 0, uses: 0, evictions: 0, usedBytes: 0, stallMs: 0, budgetBytes: LEAST + 200 };
  expect(memory.stats).toMatchObject(zeros);
  const fresh = memoryOf(fill, { budgetBytes: LEAST + 200 });
  await serve(fresh, runs);
  await whileReading(held, random, serve(memory, runs));
  expect(countersOf(memory)).toEqual(countersOf(fresh));
  expect(told.filter((event) => event === "loaded")).toHaveLength(memory.stats.loads);
});

describe("reads that fail", () => {
  test("fail the layer that needs them, and are tried again by the next one", async () => {
    let allFailed = 0;
    for (let seed = 0; seed < 30; seed++) {
      const random = seededRandom(seed);
      const failing = seededRandom(seed + 1000);
      const held = new HeldReads();
      const memory = memoryOf(
        async (layer, expert, into) => {
          await held.read(layer, expert, into);
          if (failing() < 0.15) throw new Error("The disk is gone");
        },
        { budgetBytes: LEAST + 200, lookaheadLayers: 2 },
      );
      let numFailed = 0;
      for (const experts of someRuns(random, 15)) {
        await whileReading(held, random, runAll(memory, experts)).catch((error: unknown) => {
          expect(error).toMatchObject({ message: "The disk is gone" });
          numFailed++;
        });
        memory.cache.checkIntegrity();
        expect(memory.takenBytes).toBeLessThanOrEqual(LEAST + 200);
      }
      expect(memory.stats.failedReads).toBeGreaterThanOrEqual(numFailed);
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

function countersOf(memory: UnitMemory): ExpertCacheCounters {
  return memory.cache.counters;
}

async function privateBytes(): Promise<number> {
  const status = await readFile("/proc/self/status", "utf8");
  return 1024 * Number(/RssAnon:\s+(\d+)/.exec(status)?.[1]);
}
