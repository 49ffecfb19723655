// Memory of loras under random additions, removals, budgets, steps and restarts, against a plain list.

import { expect, test } from "vitest";
import { LoraUnits, type PackedLora } from "../../../packages/engine/src/experts/loras.ts";
import { NamedExperts } from "../../../packages/engine/src/experts/named-experts.ts";
import * as fc from "../../support/fast-check.ts";

const [NUM_EXPERTS, SIZES, BUDGETS] = [5, [100, 200, 400], [99, 100, 150, 200, 399, 400, 600, 1000]] as const;

const expert = fc.integer({ min: 1, max: NUM_EXPERTS });
const experts = fc.uniqueArray(expert, { maxLength: NUM_EXPERTS });
const add = fc.record({ type: fc.constant("add" as const), expert, bytes: fc.constantFrom(...SIZES) });
const remove = fc.record({ type: fc.constant("remove" as const), expert });
const setBudget = fc.record({ type: fc.constant("setBudget" as const), bytes: fc.constantFrom(...BUDGETS) });
const run = fc.record({ type: fc.constant("run" as const), experts, planned: experts, later: experts });
const steps = fc.oneof(
  { weight: 4, arbitrary: add },
  { weight: 2, arbitrary: remove },
  { weight: 2, arbitrary: setBudget },
  { weight: 6, arbitrary: run },
  { weight: 1, arbitrary: fc.constant({ type: "restart" as const }) },
);

interface Added {
  readonly bytes: number;
  /** Content of its bytes; each addition has another one. */
  readonly mark: number;
}

class Machine {
  readonly #added = new Map<number, Added>();
  /** Memory of each expert that the kernel has. */
  readonly #slots = new Map<number, Uint8Array>();
  #budgetBytes: number;
  readonly #kernel = {
    placeLora: (slot: number, memory: Uint8Array | undefined): void => {
      if (memory) this.#slots.set(slot + 1, memory);
      else this.#slots.delete(slot + 1);
    },
    step: (): void => this.#onStep(),
  };
  #units!: LoraUnits;
  #loras!: NamedExperts;
  #onStep = (): void => undefined;
  #numAdded = 0;

  constructor(budgetBytes: number) {
    this.#budgetBytes = budgetBytes;
    this.#open();
  }

  get #least(): number {
    return Math.max(1, ...Array.from(this.#added.values(), ({ bytes }) => bytes));
  }

  add(index: number, bytes: number): void {
    if (this.#added.has(index)) return;
    const added = { bytes, mark: 1 + (this.#numAdded++ % 255) };
    const adding = (): void => this.#units.set(index, loraOf(added), this.#budgetBytes);
    if (bytes > this.#budgetBytes) expect(adding).toThrow(`at least ${bytes} bytes`);
    else {
      adding();
      this.#added.set(index, added);
    }
  }

  remove(index: number): void {
    if (!this.#added.delete(index)) return;
    this.#loras.store.forget(index);
    this.#units.remove(index);
    expect(this.#slots.has(index)).toBe(false);
  }

  async setBudget(bytes: number): Promise<void> {
    const setting = this.#loras.store.setBudget(bytes);
    if (bytes < this.#least) await expect(setting).rejects.toThrow(`at least ${this.#least} bytes`);
    else {
      await setting;
      this.#budgetBytes = bytes;
    }
  }

  async run(wanted: readonly number[], planned: readonly number[], later: readonly number[]): Promise<void> {
    const known = (some: readonly number[]): number[] =>
      some.filter((index) => this.#added.has(index)).toSorted((a, b) => a - b);
    const own = known(wanted);
    while (this.#loras.fit?.(new Set(own)) === false) own.pop();
    expect(this.#sizeOf(own)).toBeLessThanOrEqual(this.#budgetBytes);
    const laterSteps = Float64Array.from({ length: 257 }, (_, index) => (later.includes(index) ? 2 : Infinity));
    this.#loras.residency.streamed?.prepare({ planned: known(planned), laterSteps });
    this.#loras.expectCalls([own]);
    let numSteps = 0;
    this.#onStep = () => {
      numSteps++;
      for (const index of own) expect(this.#slots.get(index)).toEqual(contentOf(this.#added.get(index)));
    };
    // Expert 0, the model itself, has no unit.
    await this.#loras.step({} as never, new Int32Array(0), {} as never, [0, ...own]);
    expect(numSteps).toBe(1);
  }

  /** Opens the memory again with the experts that are there, as after a failure. */
  restart(): void {
    this.#slots.clear();
    this.#open();
    for (const [index, added] of this.#added) this.#units.set(index, loraOf(added), this.#budgetBytes);
  }

  check(): void {
    const { cache, takenBytes } = this.#loras.store;
    cache.checkIntegrity();
    expect(cache.budgetBytes).toBe(this.#budgetBytes);
    expect(takenBytes).toBeLessThanOrEqual(this.#budgetBytes);
    for (const [index, memory] of this.#slots) expect(memory).toEqual(contentOf(this.#added.get(index)));
    const missing = this.#loras.residency.missingBytes;
    const inMemory = new Set(cache.state.units.map(({ expert: index }) => index));
    for (let index = 0; index <= NUM_EXPERTS; index++) {
      expect(missing[index]).toBe(inMemory.has(index) ? 0 : (this.#added.get(index)?.bytes ?? 0));
    }
    for (const index of inMemory) expect(this.#added.has(index)).toBe(true);
  }

  #open(): void {
    this.#units = new LoraUnits(this.#kernel);
    this.#loras = new NamedExperts(this.#kernel as never, this.#units, { budgetBytes: this.#budgetBytes });
  }

  #sizeOf(some: readonly number[]): number {
    return some.reduce((sum, index) => sum + (this.#added.get(index)?.bytes ?? 0), 0);
  }
}

function contentOf(added: Added | undefined): Uint8Array {
  return new Uint8Array(added?.bytes ?? 0).fill(added?.mark ?? 0);
}

function loraOf(added: Added): PackedLora {
  return { numBytes: added.bytes, read: async (into) => void into.fill(added.mark) };
}

test("holds what a step needs within its budget, whatever is added, removed and set before", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(100, 400, 1000),
      fc.array(steps, { minLength: 20, maxLength: 60, size: "max" }),
      async (budget, history) => {
        const machine = new Machine(budget);
        for (const step of history) {
          if (step.type === "add") machine.add(step.expert, step.bytes);
          else if (step.type === "remove") machine.remove(step.expert);
          else if (step.type === "setBudget") await machine.setBudget(step.bytes);
          else if (step.type === "run") await machine.run(step.experts, step.planned, step.later);
          else machine.restart();
          machine.check();
        }
      },
    ),
    { numRuns: 150 },
  );
});

test("a lower budget between two steps also takes what the next step would need", async () => {
  const machine = new Machine(200);
  for (const index of [1, 2]) machine.add(index, 100);
  await machine.run([], [1, 2], []);
  machine.check();
  await machine.setBudget(100);
  machine.check();
  await machine.run([1], [2], []);
  await machine.run([2], [], []);
  machine.check();
});
