// Tasks of a fit: whichever machine runs them, in whichever order, and whatever gets lost on the way, the result is the same.

import type { ArtefactStore } from "@readme-moe/core";
import { openModel, type Model } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Products } from "../../packages/refactor/src/linear-algebra/matrix.ts";
import { resolveOptions, type RefactorOptions } from "../../packages/refactor/src/options.ts";
import { gradientTaskName, parseGradientTask } from "../../packages/refactor/src/lora/machines.ts";
import { decodeArtefact, encodeArtefact, readLayer } from "../../packages/refactor/src/tasks/results.ts";
import { fitSetting, type FitPlan, type FitSetting } from "../../packages/refactor/src/tasks/fit-tasks.ts";
import { decodePlan, encodePlan } from "../../packages/refactor/src/tasks/fit-work.ts";
import { resultName, sharedStore, TaskRunner } from "../../packages/refactor/src/tasks/task-runner.ts";
import { shardText, fitsOf, parseTask, passesOf, taskName, type Task } from "../../packages/refactor/src/tasks/task.ts";
import { shuffled } from "../../packages/refactor/src/random.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { withByte } from "../support/damage.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";

const PLAN = "a".repeat(64);
const LENGTH = 128;
/** Sequences of each expert: three, one and two batches of at most eight. */
const COUNTS = [20, 5, 12];

let model: Model;
let products: Products;
beforeAll(async () => {
  const folder = `${await persistentFolder()}/dense`;
  await writeTinyDense(folder, 5);
  model = await openModel(folder);
  products = await Products.open(1);
});
afterAll(async () => {
  await products.dispose();
  await model.close();
});

const random = seededRandom(11);
const groups = COUNTS.map((count) =>
  Array.from({ length: count }, () => Int32Array.from({ length: LENGTH }, () => randomInteger(random, 4096))),
);

function planOf(options: RefactorOptions): FitPlan {
  return { groups, options: resolveOptions({ sequenceTokens: LENGTH, calibrationTokens: LENGTH, ...options }) };
}

function settingOf(options: RefactorOptions): FitSetting {
  return fitSetting(planOf(options), { model, products, run: { threads: 1 } });
}

/** Groups of tasks in the order that a coordinator runs them; those of a group may run in any order. */
function stepsOf({ bounds }: FitSetting): readonly (readonly Task[])[] {
  const layers = Array.from({ length: bounds.numLayers }, (_, layer): readonly (readonly Task[])[] => [
    passesOf(layer, bounds),
    [{ kind: "pool", layer }],
    fitsOf(layer, bounds),
    [{ kind: "layer", layer }],
  ]);
  return [...layers.flat(), passesOf(bounds.numLayers, bounds), [{ kind: "costs" }]];
}

class MemoryStore implements ArtefactStore {
  readonly bytes = new Map<string, Uint8Array>();
  has = (key: string): Promise<boolean> => Promise.resolve(this.bytes.has(key));
  get = (key: string): Promise<Uint8Array | undefined> => Promise.resolve(this.bytes.get(key)?.slice());
  put = (key: string, bytes: Uint8Array): Promise<void> => Promise.resolve(void this.bytes.set(key, bytes.slice()));
  remove = (key: string): Promise<void> => Promise.resolve(void this.bytes.delete(key));

  /** Returns the results that are kept: layers and costs. */
  results(): Record<string, string> {
    const kept = [...this.bytes].filter(([key]) => /\.(layer-\d+|costs)\./.test(key));
    return Object.fromEntries(kept.map(([key, bytes]) => [key, Buffer.from(bytes.subarray(0, 32)).toString("hex")]));
  }
}

async function runInOrder(setting: FitSetting): Promise<MemoryStore> {
  const store = new MemoryStore();
  const runner = new TaskRunner(setting, sharedStore(store, PLAN));
  for (const task of stepsOf(setting).flat()) await runner.run(task);
  return store;
}

const VARIANTS: readonly RefactorOptions[] = [
  { shards: 3 },
  { shards: 4, sharedSize: "auto", baselines: false },
  { shards: 2, method: "paper" },
  { shards: 5, method: "refit", sharedSize: 0.25, baselines: false },
  { shards: 2, layerSizes: [24, 64], sharedSize: "auto" },
];

test.each(VARIANTS)("two machines give what one gives, in any order and with losses: %j", async (options) => {
  const setting = settingOf(options);
  const expected = await runInOrder(setting);
  const store = new MemoryStore();
  const machines = [0, 1].map(() => new TaskRunner(settingOf(options), sharedStore(store, PLAN)));
  const draw = seededRandom(3);
  for (const [index, step] of stepsOf(setting).entries()) {
    for (const task of shuffled(step, index)) await machines[randomInteger(draw, 2)]!.run(task);
    // One result of each step is lost, and one damaged.
    const keys = [...store.bytes.keys()].filter((key) =>
      step.some((task) => key.startsWith(`${PLAN}.${taskName(task)}.`)),
    );
    const [lost, damaged] = [keys[randomInteger(draw, keys.length)]!, keys[randomInteger(draw, keys.length)]!];
    const bytes = store.bytes.get(damaged)!;
    store.bytes.set(damaged, withByte(bytes, randomInteger(draw, bytes.length), bytes[0]! ^ 0x55));
    store.bytes.delete(lost);
  }
  for (const [layer] of Array.from({ length: setting.bounds.numLayers }).entries()) {
    await machines[0]!.read({ kind: "layer", layer });
  }
  await machines[0]!.read({ kind: "costs" });
  expect(store.results()).toEqual(expected.results());
  expect(Object.keys(store.results())).toHaveLength(setting.bounds.numLayers + 1);
});

test("more shards change no more than the last bits", async () => {
  const layers = [];
  for (const shards of [1, 6]) {
    const setting = settingOf({ shards, baselines: false });
    expect(setting.bounds.numShards).toBe(shards);
    const store = sharedStore(await runInOrder(setting), PLAN);
    layers.push(readLayer((await store.read(resultName({ kind: "layer", layer: 1 }, "result")))!));
  }
  const [one, six] = layers.map(({ families }) => families["ours"]!.experts);
  one!.forEach((part, expert) => {
    expect(six![expert]!.neurons).toEqual(part.neurons);
    part.down.forEach((value, at) => expect(six![expert]!.down[at]).toBeCloseTo(value, 3));
  });
});

describe("shards", () => {
  test.each([1, 2, 3, 5, 6, 99])("%i of them have all text in its order", (count) => {
    const shape = { baselines: true, holdsBack: true };
    const whole = shardText(model.config, groups, { ...shape, shards: 1 });
    const { shards, stream, costSequences } = shardText(model.config, groups, { ...shape, shards: count });
    expect(shards).toHaveLength(Math.min(count, stream.batches.length));
    expect(shards.flatMap((shard) => shard.stream.sequences)).toEqual(stream.sequences);
    expect(shards.flatMap(({ stream: own, experts }) => own.domains.map((domain) => experts[domain]))).toEqual(
      stream.domains,
    );
    expect(costSequences).toEqual(whole.costSequences);
    const textsOf = (of: readonly (typeof shards)[number][], which: "costBatches" | "heldBack"): unknown =>
      of.flatMap((shard) =>
        [...shard[which]].flatMap(({ firstSequence, numSequences }) =>
          shard.stream.sequences.slice(firstSequence, firstSequence + numSequences),
        ),
      );
    for (const which of ["costBatches", "heldBack"] as const) {
      expect(textsOf(shards, which)).toEqual(textsOf(whole.shards, which));
    }
    expect(shards.flatMap(({ staticStream }) => staticStream?.sequences ?? [])).toEqual(
      whole.shards[0]!.staticStream!.sequences,
    );
    for (const shard of shards) {
      const chosen = shard.staticSequences.map((sequence) => shard.stream.sequences[sequence]);
      expect(shard.staticStream?.sequences ?? []).toEqual(chosen);
    }
  });
});

test("names of tasks are read back, and no others are", () => {
  const { bounds } = settingOf({ shards: 3, sharedSize: "auto" });
  const tasks = stepsOf({ bounds } as FitSetting).flat();
  for (const task of tasks) expect(parseTask(taskName(task), bounds)).toEqual(task);
  const others = [
    "pass-0-3",
    "pass-3-0",
    "pass-0",
    "pass--1-0",
    "pass-00-0",
    "pass-1e0-0",
    "pool-2",
    "layer-NaN",
    "fit-0-ours-3-0",
  ];
  const more = [
    "fit-0-ours-0-3",
    "fit-0-static-1-0",
    "fit-0-other-0-0",
    "fit-0-random-0-1",
    "costs-0",
    "",
    "../plan",
    "toString",
  ];
  for (const name of [...others, ...more]) expect(() => parseTask(name, bounds), name).toThrow(RangeError);
  const bare = settingOf({ baselines: false }).bounds;
  expect(() => parseTask("fit-0-random-0-0", bare)).toThrow(RangeError);
});

test("names of a training's tasks are read back, and no others are", () => {
  const bounds = { courses: ["first", { kind: 2, isRest: true }] as const, stepsOf: () => 3, shards: 2 };
  for (const course of bounds.courses) {
    const task = { course, step: 2, shard: 1 };
    expect(parseGradientTask(gradientTaskName(task), bounds)).toEqual(task);
  }
  const others = ["rest-0-0", "first-3-0", "first-0-2", "first-00-0", "first-0", "first-0-0-0", "rest1-0-0", ""];
  for (const name of others) expect(() => parseGradientTask(`gradients-${name}`, bounds), name).toThrow(RangeError);
});

test("an artefact is read back, and not when any of its bytes is wrong or missing", () => {
  const artefact = new Map<string, Float32Array | Float64Array | Int32Array | Uint8Array>([
    ["a", Float32Array.of(1, -0, NaN)],
    ["b", Float64Array.of(Math.PI)],
    ["c", Int32Array.of(-7, 9, 1)],
    ["d", Uint8Array.of(255)],
    ["e", new Float32Array(0)],
  ]);
  const bytes = encodeArtefact(artefact);
  expect(decodeArtefact(bytes)).toEqual(artefact);
  // A network's buffer may begin anywhere.
  const shifted = new Uint8Array(bytes.length + 3);
  shifted.set(bytes, 3);
  expect(decodeArtefact(shifted.subarray(3))).toEqual(artefact);
  for (let at = 0; at < bytes.length; at++) {
    expect(decodeArtefact(withByte(bytes, at, bytes[at]! ^ 1)), `byte ${at}`).toBeUndefined();
    expect(decodeArtefact(bytes.subarray(0, at)), `${at} bytes`).toBeUndefined();
  }
});

test("a plan is read back by its hash, on the machines and the model that it is for", () => {
  const plan = { kind: "fit", ...planOf({ shards: 2, baselines: false }) } as const;
  const { id, bytes } = encodePlan(plan, "machines");
  const where = { id, machines: "machines", config: model.config };
  expect(decodePlan(bytes, where)).toEqual(plan);
  expect(() => decodePlan(bytes, { ...where, id: PLAN })).toThrow(TypeError);
  expect(() => decodePlan(bytes, { ...where, machines: "others" })).toThrow(TypeError);
  expect(() => decodePlan(bytes, { ...where, config: { ...model.config, vocabSize: 9 } })).toThrow(RangeError);
});
