// Rows of one call on a real engine: hooks see them in step, each has its own length, and a signal ends them.

import { join } from "node:path";
import type { Engine, GenerateChunk, Generation, ProcessLogits } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runRows, type RowRequest } from "../../packages/adapter/src/generation/run-rows.ts";
import { complete } from "../support/complete.ts";
import { generationOf } from "../support/generation.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const PROMPTS = [[5, 6, 7], [8, 900], [901, 5, 9, 10], [7]];

let engine: ReadMeEngine;
beforeAll(async () => {
  const path = join(await persistentFolder(), "model");
  await writeTinyReadMe(path, WITH_TOKENIZER);
  engine = await ReadMeEngine.open(path, { precision: "fp32", threads: 1, isolation: "thread" });
});
afterAll(() => engine.dispose());

function request(row: number, maxTokens: number, processLogits?: ProcessLogits): RowRequest {
  // Sampled, since random weights repeat their most likely token.
  const params = { maxTokens, temperature: 8, seed: row, ignoreEos: true };
  return { prompt: PROMPTS[row] as number[], params, ...(processLogits ? { processLogits } : {}) };
}

/** The tokens of a row alone. */
async function alone(row: number, maxTokens: number): Promise<readonly number[]> {
  return (await complete(engine, request(row, maxTokens))).ids;
}

/** A promise with its resolver. */
class Gate {
  open!: () => void;
  readonly opened = new Promise<void>((resolve) => (this.open = resolve));
}

/** Wraps the engine: a request's gate opens when its answer has ended in any way. */
function opening(gates: ReadonlyMap<object, Gate>): Pick<Engine, "generate"> {
  async function* answer(generation: Generation, prompt: object): AsyncGenerator<GenerateChunk, void, undefined> {
    try {
      yield* generation;
    } finally {
      gates.get(prompt)?.open();
    }
  }
  return {
    generate(asked) {
      const generation = engine.generate(asked);
      return generationOf(answer(generation, asked.prompt as object), generation.accepted);
    },
  };
}

/** Holds a row after its first tokens until `gate` opens. */
function waiting(row: number, numTokens: number, gate: Gate): ProcessLogits {
  return async (_, { tokenIds, promptTokens }) => {
    expect(promptTokens).toBe(PROMPTS[row]?.length);
    if (tokenIds.length >= promptTokens + numTokens) await gate.opened;
    return undefined;
  };
}

async function expectIdle(): Promise<void> {
  expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
}

describe("a hook that ends rows", () => {
  test("ends a fast row at the right token, although the row was far ahead of a slow one", async () => {
    const fastEnded = new Gate();
    const requests = [request(0, 20), request(1, 6, waiting(1, 0, fastEnded))];
    const gates = new Map([[requests[0]?.prompt as object, fastEnded]]);
    const steps: (readonly (number | undefined)[])[] = [];
    const onStep = (tokens: readonly (number | undefined)[]): readonly boolean[] => {
      steps.push(tokens);
      return [steps.length === 3, false];
    };
    const [fast, slow] = await runRows(opening(gates), requests, { onStep });
    const whole = await alone(0, 20);
    expect(new Set(whole).size).toBeGreaterThan(10);
    expect(fast).toEqual(whole.slice(0, 3));
    expect(slow).toEqual(await alone(1, 6));
    expect(steps.map(([token]) => token)).toEqual([...(fast ?? []), undefined, undefined, undefined]);
    await expectIdle();
  });

  test.each([1, 2, 3, 4, 5, 6, 7, 8])("gets the same steps as with equally fast rows (seed %i)", async (seed) => {
    const random = seededRandom(seed);
    const rows = PROMPTS.map((_, row) => ({ row, maxTokens: 1 + randomInteger(random, 12), gate: new Gate() }));
    /** The step at which the hook ends each row; some rows end before. */
    const ends = rows.map(() => 1 + randomInteger(random, 16));
    const order = rows.map((one) => [random(), one] as const).toSorted(([a], [b]) => a - b);
    const requests: RowRequest[] = [];
    for (const [place, [, { row, maxTokens }]] of order.entries()) {
      // Each row waits at some token until the row before it in a random order has ended.
      const before = order[place - 1]?.[1].gate;
      const wait = before && waiting(row, randomInteger(random, 12), before);
      requests[row] = request(row, maxTokens, wait);
    }
    const gates = new Map(rows.map(({ row, gate }) => [requests[row]?.prompt as object, gate]));

    const whole = await Promise.all(rows.map(({ row, maxTokens }) => alone(row, maxTokens)));
    const expected = whole.map((ids, row) => ids.slice(0, ends[row]));
    const numSteps = Math.max(...expected.map(({ length }) => length));
    const expectedSteps = Array.from({ length: numSteps }, (_, step) => expected.map((ids) => ids[step]));

    const steps: (readonly (number | undefined)[])[] = [];
    const tokens = await runRows(opening(gates), requests, {
      onStep: (step) => {
        steps.push(step);
        return ends.map((end) => end <= steps.length);
      },
    });
    expect(tokens).toEqual(expected);
    expect(steps).toEqual(expectedSteps);
    await expectIdle();
  });
});

describe("a signal", () => {
  const over = new Error("no longer wanted");

  test("ends running rows with its reason, with and without a hook", async () => {
    for (const isHooked of [true, false]) {
      const controller = new AbortController();
      let numTokens = 0;
      const count = (): void => {
        if (++numTokens === 10) controller.abort(over);
      };
      engine.events.on("token:generated", count);
      // Each token needs this thread, so that the engine cannot run far ahead of the signal.
      const requests = [0, 1].map((row) => request(row, 100, () => undefined));
      const steps: unknown[] = [];
      const onStep = (step: unknown): readonly boolean[] => {
        steps.push(step);
        return [];
      };
      const call = runRows(engine, requests, isHooked ? { onStep } : {}, controller.signal);
      await expect(call).rejects.toBe(over);
      engine.events.off("token:generated", count);
      expect(numTokens).toBeGreaterThanOrEqual(10);
      expect(numTokens).toBeLessThan(100);
      expect(steps.length > 0).toBe(isHooked);
      await expectIdle();
    }
  });

  test("ends a row that waits for the caller's function", async () => {
    const controller = new AbortController();
    const [gate, reached] = [new Gate(), new Gate()];
    const wait: ProcessLogits = async () => {
      reached.open();
      await gate.opened;
      return undefined;
    };
    let outcome: unknown;
    const call = runRows(engine, [request(0, 5, wait)], {}, controller.signal).then(
      (tokens) => (outcome = tokens),
      (error: unknown) => (outcome = error),
    );
    await reached.opened;
    controller.abort(over);
    // Many more turns of the engine and of this thread than the end of a row takes.
    await complete(
      engine,
      request(1, 40, () => undefined),
    );
    expect(outcome).toBe(over);
    gate.open();
    await call;
    await expectIdle();
  });

  test("that is already aborted starts nothing", async () => {
    let numTokens = 0;
    const count = (): void => void numTokens++;
    engine.events.on("token:generated", count);
    await expect(runRows(engine, [request(0, 5)], {}, AbortSignal.abort(over))).rejects.toBe(over);
    await alone(1, 1);
    engine.events.off("token:generated", count);
    expect(numTokens).toBe(1);
  });
});
