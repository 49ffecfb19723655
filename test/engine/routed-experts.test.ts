// Layers of a mixture with a plain kernel that only routes, and with reads that are slow, fail, and end in any order.

import { describe, expect, test } from "vitest";
import {
  RoutedExperts,
  type RoutedExpertsOptions,
  type RoutedKernel,
} from "../../packages/engine/src/experts/routed-experts.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const NUM_EXPERTS = 6;
const PER_TOKEN = 2;
/** Layers 0 and 3 are dense. */
const LAYER_BYTES = [0, 64, 96, 0, 64];
const LEAST = PER_TOKEN * 96;

type Route = (layer: number, sequence: number) => readonly number[];

/** A kernel that routes by a function and checks each unit's bytes. */
class PlainKernel implements RoutedKernel {
  readonly calls: string[] = [];
  readonly #route: Route;
  readonly #placed = new Map<string, Uint8Array>();
  #chosen: Int32Array | undefined;
  rows = { sequences: [] as readonly number[], wanted: [] as readonly number[] };

  constructor(route: Route) {
    this.#route = route;
  }

  beginStep(): void {
    this.calls.length = 0;
    this.#chosen = undefined;
  }

  runLayers(from: number, to: number): void {
    expect([LAYER_BYTES[from], to]).toEqual([0, from + 1]);
    this.calls.push(`run ${from}`);
  }

  routeLayer(layer: number): Int32Array {
    const { sequences, wanted } = this.rows;
    const rows = layer === LAYER_BYTES.length - 1 ? wanted : Array.from(sequences.keys());
    this.#chosen = Int32Array.from(rows.flatMap((row) => this.#route(layer, sequences[row] as number)));
    this.calls.push(`route ${layer}`);
    return this.#chosen;
  }

  feedLayer(layer: number): void {
    this.expectWhole();
    for (const expert of this.#chosen ?? []) {
      const unit = this.#placed.get(`${layer} ${expert}`) as Uint8Array;
      expect(Array.from(unit)).toEqual(Array.from(unit, () => 10 * layer + expert + 1));
      expect(unit).toHaveLength(LAYER_BYTES[layer] as number);
    }
    this.calls.push(`feed ${layer}`);
  }

  endStep(): void {
    this.calls.push("end");
  }

  placeUnit(layer: number, expert: number, unit: Uint8Array | undefined): void {
    if (unit) this.#placed.set(`${layer} ${expert}`, unit);
    else this.#placed.delete(`${layer} ${expert}`);
  }

  /** Every unit that is placed, each of which must be whole: the memory of others is released. */
  expectWhole(): void {
    for (const [name, unit] of this.#placed) {
      const [layer = 0, expert = 0] = name.split(" ").map(Number);
      expect(Array.from(unit), name).toEqual(Array(LAYER_BYTES[layer] as number).fill(10 * layer + expert + 1));
    }
  }
}

/** Reads that end when the test releases them. */
class HeldReads {
  readonly started: string[] = [];
  readonly #waiting: ((isBroken: boolean) => void)[] = [];

  readonly read = async (layer: number, expert: number, into: Uint8Array): Promise<void> => {
    this.started.push(`${layer} ${expert}`);
    const isBroken = await new Promise<boolean>((resolve) => void this.#waiting.push(resolve));
    if (isBroken) throw new Error("The disk is gone");
    into.fill(10 * layer + expert + 1);
  };

  get numWaiting(): number {
    return this.#waiting.length;
  }

  release(place: number, isBroken = false): void {
    this.#waiting.splice(place, 1)[0]?.(isBroken);
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

/** Releases reads, in any order and some as failed, until `work` has ended. */
async function whileReading<Result>(
  held: HeldReads,
  random: () => number,
  work: Promise<Result>,
  failures = 0,
): Promise<Result> {
  let isOver = false;
  const over = work.finally(() => (isOver = true));
  over.catch(() => undefined);
  for (;;) {
    await turn();
    if (isOver) return over;
    if (random() < 0.7) held.release(randomInteger(random, held.numWaiting), random() < failures);
  }
}

function streamOf(kernel: PlainKernel, held: HeldReads, options: Partial<RoutedExpertsOptions> = {}): RoutedExperts {
  const place = kernel.placeUnit.bind(kernel);
  const source = { numExperts: NUM_EXPERTS, layerBytes: LAYER_BYTES, read: held.read, place };
  return new RoutedExperts(kernel, source, { budgetBytes: LEAST, expertsPerToken: PER_TOKEN, ...options });
}

/** Runs a call of the kernel as a step. */
function step(
  stream: RoutedExperts,
  kernel: PlainKernel,
  sequences: readonly number[],
  wanted = [sequences.length - 1],
) {
  kernel.rows = { sequences, wanted };
  const none = { candidateIds: new Int32Array(0), logits: new Float32Array(0), sums: new Float64Array(0) };
  const results = { ...none, fullLogits: new Float32Array(0) };
  const pages = { numPages: 0, close: () => undefined, read: () => undefined, write: () => undefined };
  return stream.runStep(sequences.length, () => stream.step(pages, new Int32Array(0), results, { sequences, wanted }));
}

/** Routes that mostly repeat, a fixed pair for each sequence and layer, and sometimes change. */
function routesOf(random: () => number): Route {
  return (layer, sequence) => {
    const first = (3 * layer + 2 * sequence) % NUM_EXPERTS;
    const second = (first + 1 + (random() < 0.8 ? sequence % 3 : randomInteger(random, NUM_EXPERTS - 1))) % NUM_EXPERTS;
    return [first, second === first ? (first + 1) % NUM_EXPERTS : second];
  };
}

test("runs dense layers at once, routes each other layer before it feeds it, and ends the step", async () => {
  const held = new HeldReads();
  const kernel = new PlainKernel(routesOf(seededRandom(1)));
  const stream = streamOf(kernel, held);
  await whileReading(held, seededRandom(2), step(stream, kernel, [0]));
  expect(kernel.calls).toEqual([
    "run 0",
    "route 1",
    "feed 1",
    "route 2",
    "feed 2",
    "run 3",
    "route 4",
    "feed 4",
    "end",
  ]);
});

test("reads an expert once however many rows want it, and in the last layer only those of wanted rows", async () => {
  const held = new HeldReads();
  const kernel = new PlainKernel((layer, sequence) => (layer === 4 && sequence === 1 ? [4, 5] : [1, 3]));
  const stream = streamOf(kernel, held, { budgetBytes: 6 * 96 * 3, readAhead: false });
  await whileReading(held, seededRandom(2), step(stream, kernel, [0, 0, 0, 1], [2]));
  expect(held.started).toEqual(["1 1", "1 3", "2 1", "2 3", "4 1", "4 3"]);
});

describe("a forecast", () => {
  test("reads the next layer's likely experts while this one waits, and needs no wait then", async () => {
    const held = new HeldReads();
    const kernel = new PlainKernel((layer, sequence) => (sequence === 0 ? [layer % 3, 5] : [3, 4]));
    // Without a clock no speed is measured, and reads ahead are not limited by time.
    const stream = streamOf(kernel, held, {
      now: () => 0,
      budgetBytes: 4 * 96 + 64,
      readAhead: { layersAhead: 1, leastChance: 0.5 },
    });
    const random = seededRandom(3);
    for (let token = 0; token < 40; token++) await whileReading(held, random, step(stream, kernel, [0]));
    // Another sequence takes the room, and the first one comes back.
    for (let token = 0; token < 6; token++) await whileReading(held, random, step(stream, kernel, [2]));
    held.started.length = 0;
    const back = step(stream, kernel, [0]);
    while (!kernel.calls.includes("route 1")) await turn();
    await turn();
    // On demand, then what the layer after this one is likely to need.
    expect(held.started.slice(0, 2).toSorted()).toEqual(["1 1", "1 5"]);
    expect(held.started.slice(2, 4).toSorted()).toEqual(["2 2", "2 5"]);
    await whileReading(held, random, back);
    const { forecast } = stream.store.stats;
    expect(forecast?.hits).toBeGreaterThan(0);
  });

  test("keeps the budget and every unit's bytes, with slow and broken reads and budgets that change", async () => {
    let numFailed = 0;
    for (let seed = 0; seed < 30; seed++) {
      const random = seededRandom(seed);
      const held = new HeldReads();
      const kernel = new PlainKernel(routesOf(seededRandom(seed + 100)));
      const readAhead = [{ layersAhead: 2, leastChance: 0.1 }, { layersAhead: 1, leastChance: 0.4 }, false as const][
        seed % 3
      ];
      const stream = streamOf(kernel, held, { budgetBytes: LEAST + randomInteger(random, 900), readAhead });
      const changes: Promise<void>[] = [];
      for (let count = 0; count < 25; count++) {
        const most = Math.min(4, stream.maxRows);
        const sequences = Array.from({ length: 1 + randomInteger(random, most) }, (_, row) => row >> 1);
        const running = step(stream, kernel, sequences);
        if (random() < 0.3) changes.push(stream.setBudget(LEAST + randomInteger(random, 900)));
        await whileReading(held, random, running, 0.05).catch((error: unknown) => {
          expect(error).toMatchObject({ message: "The disk is gone" });
          numFailed++;
        });
        kernel.expectWhole();
        stream.store.cache.checkIntegrity();
        expect(stream.store.stats.usedBytes).toBeLessThanOrEqual(stream.store.stats.budgetBytes);
      }
      await whileReading(held, random, Promise.all(changes));
      while (held.numWaiting > 0) {
        held.release(0);
        await turn();
      }
      await turn();
      expect(stream.store.takenBytes).toBeLessThanOrEqual(stream.store.stats.budgetBytes);
      expect(stream.store.meter.pendingBytes).toBe(0);
    }
    expect(numFailed).toBeGreaterThan(10);
  });
});

describe("a smaller budget", () => {
  test("waits for the running step if that may need more, and then holds", async () => {
    const held = new HeldReads();
    const kernel = new PlainKernel(routesOf(seededRandom(4)));
    const stream = streamOf(kernel, held, { budgetBytes: 6 * 96, readAhead: false });
    expect(stream.maxRows).toBe(Infinity);
    const running = step(stream, kernel, [0, 1, 2]);
    await turn();
    let isSet = false;
    const set = stream.setBudget(LEAST).then(() => (isSet = true));
    await turn();
    expect([isSet, stream.store.stats.budgetBytes, stream.maxRows]).toEqual([false, 6 * 96, 1]);
    await whileReading(held, seededRandom(5), running);
    await whileReading(held, seededRandom(5), set);
    expect(stream.store.stats.budgetBytes).toBe(LEAST);
    expect(stream.store.takenBytes).toBeLessThanOrEqual(LEAST);
  });

  test("limits the rows of a call to those whose experts fit in one layer, whatever they choose", () => {
    const kernel = new PlainKernel(routesOf(seededRandom(4)));
    const rows = [2, 3, 4, 5, 6].map((units) => streamOf(kernel, new HeldReads(), { budgetBytes: units * 96 }).maxRows);
    expect(rows).toEqual([1, 1, 2, 2, Infinity]);
  });

  test("below a token's experts of one layer is refused with the figure", async () => {
    const kernel = new PlainKernel(routesOf(seededRandom(4)));
    const message =
      "Expected `expertCacheBytes` to be at least 192 bytes, which a token needs for 2 experts of one layer, got `191`";
    expect(() => streamOf(kernel, new HeldReads(), { budgetBytes: 191 })).toThrow(new RangeError(message));
    await expect(streamOf(kernel, new HeldReads()).setBudget(191)).rejects.toThrow(new RangeError(message));
  });
});
