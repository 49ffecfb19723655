// Admission and preemption in the engine's core: priorities that arrive while other sequences hold memory, and the
// cached tokens of a sequence that is admitted again. With a tiny Read-ME model.

import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { Sequence } from "../../packages/engine/src/sequence.ts";
import { CoreBench } from "../support/core-bench.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningTinyModel } from "../support/running-tiny-model.ts";

let running: Awaited<ReturnType<typeof runningTinyModel>>;
let tokenizer: Tokenizer;
beforeAll(async () => {
  running = await runningTinyModel();
  ({ tokenizer } = running);
});
afterAll(() => running[Symbol.asyncDispose]());

const greedy = (maxTokens: number) => ({ temperature: 0, maxTokens });
const promptOf = (length: number, token = 7): readonly number[] => Array<number>(length).fill(token);

/** Lists the sequences of one kind of event since `from`, an index into the events. */
function idsOf({ events }: CoreBench, name: string, from = 0): readonly string[] {
  return events
    .slice(from)
    .flatMap((event) => (event.name === name ? [(event.payload as { sequenceId: string }).sequenceId] : []));
}

/** Finds the cached tokens of each finished sequence. */
function cachedOf({ events }: CoreBench): ReadonlyMap<string, number> {
  return new Map(
    events.flatMap(({ name, payload }) => {
      if (name !== "sequence:finished") return [];
      const { sequenceId, cachedTokens } = payload as { sequenceId: string; cachedTokens: number };
      return [[sequenceId, cachedTokens] as const];
    }),
  );
}

/** Whether `a` goes before `b`: by priority, and then by arrival. */
function isBefore(a: Sequence, b: Sequence): boolean {
  return a.priority > b.priority || (a.priority === b.priority && a.arrival < b.arrival);
}

describe("a high priority that arrives while lower ones hold memory", () => {
  test("keeps its memory to its end, and the last sequences of the lowest priority are preempted", async () => {
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 320, maxNumSeqs: 4 });
    bench.add("low", promptOf(10), greedy(100), 1);
    bench.add("lowest", promptOf(10), greedy(100), 0);
    bench.add("lowest, later", promptOf(10), greedy(100), 0);
    await bench.core.step();
    bench.add("high", promptOf(10), greedy(100), 2);
    await bench.core.step();
    expect([...bench.admission.running.keys()]).toEqual(["low", "lowest", "lowest, later", "high"]);
    await bench.finish();
    const gone = idsOf(bench, "sequence:preempted");
    expect(gone.slice(0, 2)).toEqual(["lowest, later", "lowest"]);
    expect(new Set(gone).size).toBe(2);
    expect(new Set(idsOf(bench, "sequence:finished")).size).toBe(4);
  });

  test("is admitted next if there is no room, and takes no memory from running sequences", async () => {
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 192, maxNumSeqs: 4 });
    bench.add("first", promptOf(100), greedy(20));
    await bench.core.step();
    for (const id of ["waits", "waits, too"]) bench.add(id, promptOf(100), greedy(20));
    await bench.core.step();
    bench.add("high", promptOf(100), greedy(20), 1);
    await bench.core.step();
    expect(bench.admission.waiting.map(({ id }) => id)).toEqual(["high", "waits", "waits, too"]);
    await bench.finish();
    expect(idsOf(bench, "sequence:preempted")).toEqual([]);
    expect(idsOf(bench, "sequence:finished")).toEqual(["first", "high", "waits", "waits, too"]);
  });

  test("preempts only sequences that come after all that keep their memory (seeds 1 to 4)", async () => {
    const numSequences = 30;
    let numOutOfOrder = 0;
    for (const seed of [1, 2, 3, 4]) {
      const random = seededRandom(seed);
      const bench = new CoreBench(running, tokenizer, { capacityTokens: 512, maxNumSeqs: 12 });
      const known = new Map<string, Sequence>();
      for (let left = numSequences; left > 0 || bench.core.hasWork;) {
        if (left > 0 && random() < 0.06) {
          const length = 1 + randomInteger(random, 40);
          const maxTokens = 20 + randomInteger(random, 150);
          bench.add(`s${left--}`, promptOf(length), greedy(maxTokens), randomInteger(random, 3));
        }
        const [from, before] = [bench.events.length, [...bench.admission.running.values()]];
        await bench.core.step();
        bench.core.checkIntegrity();
        for (const one of [...bench.admission.running.values(), ...bench.admission.waiting]) known.set(one.id, one);
        const gone = idsOf(bench, "sequence:preempted", from).map((id) => known.get(id) as Sequence);
        // In the order in which they were admitted.
        const held = new Set([...before, ...bench.admission.running.values(), ...gone]);
        for (const one of gone) {
          if ([...held].at(-1) !== one) numOutOfOrder++;
          held.delete(one);
          for (const other of held)
            expect(isBefore(other, one), `${other.id} before ${one.id}, seed ${seed}`).toBe(true);
        }
      }
      expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
      expect(new Set(idsOf(bench, "sequence:finished")).size).toBe(numSequences);
    }
    expect(numOutOfOrder).toBeGreaterThan(5);
  });
});

describe("a preempted sequence counts the prefix of its first admission as cached", () => {
  const PREFIX_BYTES = 1 << 20;

  test("if a longer prefix is cached at its second admission", async () => {
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 320, prefixCacheBytes: PREFIX_BYTES });
    const admit = vi.spyOn(bench.admission.kv, "admit");
    bench.add("low", promptOf(130), greedy(100));
    for (let step = 0; step < 10; step++) await bench.core.step();
    bench.add("high", promptOf(40, 8), greedy(100), 1);
    await bench.finish();
    expect(idsOf(bench, "sequence:preempted")).toEqual(["low"]);
    // Its second admission begins with both chunks of its own prompt.
    expect(admit.mock.calls.at(-1)?.[1]).toHaveLength(2);
    expect(cachedOf(bench)).toEqual(
      new Map([
        ["high", 0],
        ["low", 0],
      ]),
    );
    expect(bench.core.stats()).toMatchObject({ cachedTokens: 0, promptTokens: 170 });
  });

  test("if no prefix is cached at its second admission", async () => {
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 448, prefixCacheBytes: PREFIX_BYTES });
    const admit = vi.spyOn(bench.admission.kv, "admit");
    bench.add("first", promptOf(130), greedy(1));
    await bench.finish();
    bench.add("low", promptOf(130), greedy(110));
    for (let step = 0; step < 10; step++) await bench.core.step();
    bench.add("high", promptOf(130, 8), greedy(110), 1);
    while (bench.count("sequence:preempted") === 0) await bench.core.step();
    while (bench.prefixes.evict());
    await bench.finish();
    expect(idsOf(bench, "sequence:preempted")).toEqual(["low"]);
    expect(admit.mock.calls.at(-1)?.[1]).toEqual([]);
    expect(cachedOf(bench)).toEqual(
      new Map([
        ["first", 0],
        ["high", 0],
        ["low", 128],
      ]),
    );
    expect(bench.core.stats().cachedTokens).toBe(128);
  });
});
