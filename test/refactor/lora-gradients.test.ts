// Compares losses of experts of low rank and their gradients with an independent implementation in double precision.

import { join } from "node:path";
import { openModel, type Model } from "@readme-moe/model";
import { afterAll, describe, expect, test } from "vitest";
import {
  AdaptedModel,
  newAdapter,
  type Adapter,
  lossesOfTokens,
  meanLoss,
} from "../../packages/refactor/src/lora/adapted-model.ts";
import { AdapterTrainer } from "../../packages/refactor/src/lora/adapter-trainer.ts";
import { changedProducts } from "../../packages/refactor/src/lora/model-graph.ts";
import { readDecoderWeights, type LayerWeights, type WeightGroup } from "../../packages/refactor/src/tuning/weights.ts";
import type { TextSequence } from "../../packages/refactor/src/tuning/tuning-data.ts";
import { plainCrossEntropies, plainLoss, type PlainLayer } from "../oracles/plain-distillation.ts";
import { exactProduct, frozenWeights } from "../support/frozen-weights.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";
import { directionalError, VARIANTS, withVariant, type Variant } from "../support/tuning-variants.ts";

const folder = await persistentFolder();
const TOKENS = 7;
const SEQUENCES = 3;
const RANK = 3;
const SCALE = 1.5;
// Relative error of losses in float32 over two layers; a wrong sign has an error of at least 1.
const BOUND = 5e-3;

const running: AdaptedModel[] = [];
const models: Model[] = [];
afterAll(async () => {
  for (const model of running) await model.dispose();
  for (const model of models) await model.close();
});

describe.each([...Object.keys(VARIANTS).entries()])("variant %i, with %s", (variant, name) => {
  const options = VARIANTS[name] ?? {};
  // Weights are frozen products in some variants, and inputs of graphs in the others.
  const isFrozen = variant % 3 === 0;
  // The first variant has both shares; the others have them by turns.
  test.each([0, 0.4].filter((_, share) => variant === 0 || RUNS_LONG_TESTS || share === variant % 2))(
    "gradients agree with differences of the plain loss, teacher share %d",
    async (teacherShare) => {
      const { trainer, adapter, config, weights, sequences } = await setUp(options, { teacherShare, isFrozen });
      const mean = await trainer.gradients(sequences);
      const gradients = new Map(adapter.map(({ key }) => [key, trainer.optimizer.gradient(key)!]));
      const loss = (): number => {
        const student = {
          ...weights,
          layers: weights.layers.map((layer, index) => changedLayer(layer, index, [adapter])),
        };
        const routed = sequences.map(({ tokenIds }) => ({ tokenIds, experts: new Uint16Array(TOKENS).fill(1) }));
        const own = average(routed.flatMap((sequence) => plainCrossEntropies(config, student, sequence)));
        if (teacherShare === 0) return own;
        const both = { student, teacher: weights };
        return own + teacherShare * plainLoss(config, both, routed, 0);
      };
      if (teacherShare === 0) expect(mean).toBeCloseTo(loss(), 4);
      for (const side of [".left", ".right"]) {
        for (const product of changedProducts(true)) {
          const some = adapter.filter(({ key }) => key.endsWith(product.name + side));
          expect(some).toHaveLength(2);
          expect(directionalError(some, gradients, loss), product.name + side).toBeLessThan(BOUND);
        }
      }
    },
  );

  test("losses of mixed experts agree with the plain ones", async () => {
    const { model, adapter, config, weights, sequences } = await setUp(options, { teacherShare: 0, isFrozen });
    const other = randomFactors(adapter, 12);
    const random = seededRandom(13);
    const routes = new Map(
      sequences.map((one) => [one, Uint16Array.from(one.tokenIds, () => randomInteger(random, 3))]),
    );
    const adapters = [adapter, other];
    const found = await lossesOfTokens(model, sequences, {
      adapters,
      route: (sequence) => routes.get(sequence)!,
      signal: undefined,
    });
    const layers = weights.layers.map((layer, index) => changedLayer(layer, index, adapters));
    sequences.forEach(({ tokenIds }, index) => {
      const experts = routes.get(sequences[index]!)!;
      const wanted = plainCrossEntropies(config, { ...weights, layers }, { tokenIds, experts });
      wanted.forEach((loss, t) => expect(found[index]![t]).toBeCloseTo(loss, 3));
      expect(found[index]![TOKENS - 1]).toBe(0);
      expect(meanLoss(found[index]!)).toBeCloseTo(average(wanted), 3);
    });
  });
});

test("detects a gradient with a wrong sign", async () => {
  const { trainer, adapter, config, weights, sequences } = await setUp({}, { teacherShare: 0 });
  await trainer.gradients(sequences);
  const flipped = new Map(adapter.map(({ key }) => [key, trainer.optimizer.gradient(key)!.map((slope) => -slope)]));
  const loss = (): number => {
    const student = { ...weights, layers: weights.layers.map((layer, index) => changedLayer(layer, index, [adapter])) };
    const experts = new Uint16Array(TOKENS).fill(1);
    return average(sequences.flatMap(({ tokenIds }) => plainCrossEntropies(config, student, { tokenIds, experts })));
  };
  expect(directionalError(adapter, flipped, loss)).toBeGreaterThan(20 * BOUND);
});

test("sequences run together and one by one have the same gradients", async () => {
  const together = await setUp({}, { teacherShare: 0, sequences: SEQUENCES });
  const apart = await setUp({}, { teacherShare: 0, sequences: 1 });
  await together.trainer.gradients(together.sequences);
  await apart.trainer.gradients(apart.sequences);
  for (const { key } of together.adapter) {
    const other = apart.trainer.optimizer.gradient(key)!;
    together.trainer.optimizer.gradient(key)!.forEach((slope, i) => expect(slope).toBeCloseTo(other[i]!, 4));
  }
});

test("a new expert changes no loss, and learns a text", async () => {
  const { model, sequences, weights } = await setUp({}, { teacherShare: 0 });
  const trainer = new AdapterTrainer(model, {
    shared: newAdapter(weights, { products: changedProducts(false), rank: RANK, seed: 2 }),
    own: [],
  });
  expect(await trainer.losses(sequences, "student")).toEqual(await trainer.losses(sequences, "teacher"));
  for (let step = 0; step < 60; step++) {
    await trainer.step(sequences, { matrices: 0.02, vectors: 0, weightDecay: 0 });
  }
  const [after, before] = [await trainer.losses(sequences, "student"), await trainer.losses(sequences, "teacher")];
  expect(average(after)).toBeLessThan(average(before) - 1);
});

test("common ranks and ranks of each kind have the gradients of a whole change", async () => {
  const { model, adapter, weights, sequences } = await setUp({}, { teacherShare: 0, sequences: 2 });
  const mixed = sequences.map((sequence, index) => ({ ...sequence, domain: index % 2 }));
  const own = [8, 9].map((seed) =>
    randomFactors(newAdapter(weights, { products: changedProducts(true), rank: 2, seed }), seed),
  );
  const together = new AdapterTrainer(model, { shared: adapter, own });
  const mean = await together.gradients(mixed);
  const sums = new Map<string, Float32Array>();
  let expected = 0;
  for (const kind of own.keys()) {
    const whole = together.expertOf(kind);
    expect(whole[0]?.shape).toEqual([RANK + 2, 32]);
    const alone = new AdapterTrainer(model, { shared: whole, own: [] });
    const some = mixed.filter(({ domain }) => domain === kind);
    expected += ((await alone.gradients(some)) * some.length) / mixed.length;
    whole.forEach(({ key, shape: [rows = 0, columns = 0] }) => {
      const gradient = alone.optimizer.gradient(key)!.map((slope) => (slope * some.length) / mixed.length);
      const isLeft = key.endsWith(".left");
      const [shared, further] = [new Array<number>(), new Array<number>()];
      gradient.forEach((slope, at) => {
        const rank = isLeft ? Math.floor(at / columns) : at % columns;
        (rank < RANK ? shared : further).push(slope);
      });
      expect(isLeft ? rows : columns).toBe(RANK + 2);
      const sum = sums.get(key);
      sums.set(
        key,
        Float32Array.from(shared, (slope, at) => slope + (sum?.[at] ?? 0)),
      );
      const found = together.optimizer.gradient(`kind ${kind}/${key}`)!;
      expect(found).toHaveLength(further.length);
      further.forEach((slope, at) => expect(found[at]).toBeCloseTo(slope, 4));
    });
  }
  expect(mean).toBeCloseTo(expected, 4);
  for (const [key, sum] of sums) {
    const found = together.optimizer.gradient(key)!;
    expect(found).toHaveLength(sum.length);
    sum.forEach((slope, at) => expect(found[at]).toBeCloseTo(slope, 4));
  }
  const losses = await together.losses(mixed, "student");
  const [apart] = await lossesOfTokens(model, mixed.slice(1, 2), {
    adapters: [together.expertOf(1)],
    signal: undefined,
  });
  expect(losses[1]).toBeCloseTo(meanLoss(apart!), 5);
});

async function setUp(
  options: Variant,
  {
    teacherShare,
    sequences: together = SEQUENCES,
    isFrozen = false,
  }: { readonly teacherShare: number; readonly sequences?: number; readonly isFrozen?: boolean },
) {
  const name = join(folder, `${models.length}`);
  const dense = { numExperts: 1, expertSizes: [24, 40], sharedSizes: [0, 0], hasRouter: false };
  await writeTinyReadMe(name, { ...options, ...dense, seed: 3 });
  const tiny = await openModel(name);
  models.push(tiny);
  const weights = await readDecoderWeights(tiny);
  withVariant(weights, options);
  const config = { ...tiny.config, ...options.decoder };
  const settings = { sequences: together, sequenceTokens: TOKENS, scale: SCALE, teacherShare, threads: 1 };
  const own = isFrozen ? await frozenWeights(weights, exactProduct) : weights;
  const model = new AdaptedModel(config, own, settings);
  running.push(model);
  const adapter = randomFactors(newAdapter(weights, { products: changedProducts(true), rank: RANK, seed: 5 }), 6);
  const random = seededRandom(7);
  const sequences = Array.from({ length: SEQUENCES }, (): TextSequence => ({
    tokenIds: Int32Array.from({ length: TOKENS }, () => randomInteger(random, config.vocabSize)),
    domain: 0,
  }));
  return {
    model,
    trainer: new AdapterTrainer(model, { shared: adapter, own: [] }),
    adapter,
    config,
    weights,
    sequences,
  };
}

/** Copies an expert with other factors, none of which is zero; changes are smaller than what they change. */
function randomFactors(adapter: Adapter, seed: number): Adapter {
  const random = seededRandom(seed);
  return adapter.map((factor) => {
    const size = factor.key.endsWith(".right") ? 0.2 : 1 / Math.sqrt(factor.shape[1] ?? 1);
    return { ...factor, values: factor.values.map(() => size * randomNormal(random)) };
  });
}

/** Makes a layer with the dense model as expert 0 and `adapters` as the further ones, for the oracle. */
function changedLayer(layer: LayerWeights, index: number, adapters: readonly Adapter[]): PlainLayer {
  const changed = (group: WeightGroup, half: string, adapter: Adapter): WeightGroup => {
    const prefix = `${index}.${half}.`;
    const factors = adapter.filter(({ key }) => key.startsWith(prefix));
    return new Map([
      ...group,
      ...factors.map((factor) => {
        const isRight = factor.key.endsWith(".right");
        const values = isRight ? factor.values.map((value) => value * SCALE) : factor.values;
        return [factor.key.slice(prefix.length), { ...factor, values }] as const;
      }),
    ]);
  };
  const [plain = new Map()] = layer.experts;
  return {
    ...layer,
    attentions: [layer.attention, ...adapters.map((adapter) => changed(layer.attention, "attention", adapter))],
    experts: [plain, ...adapters.map((adapter) => changed(plain, "ffn", adapter))],
  };
}

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
