// Compares a draft head's graph with an independent implementation, and its gradients with differences of that one.

import { afterAll, describe, expect, test } from "vitest";
import { gradientName } from "../../packages/refactor/src/autodiff/tape.ts";
import { headGraph, type HeadShape, TAPS } from "../../packages/refactor/src/draft-head/head-graph.ts";
import { divideColumns, headFeeds, newParameters } from "../../packages/refactor/src/draft-head/head-trainer.ts";
import { tappedLayers } from "../../packages/refactor/src/draft-head/options.ts";
import { chooseVocabulary, sampleOutputs } from "../../packages/refactor/src/draft-head/vocabulary.ts";
import { floatOutput } from "../../packages/refactor/src/graphs/session.ts";
import { SessionPool } from "../../packages/refactor/src/graphs/staged-session.ts";
import { weightFeeds } from "../../packages/refactor/src/tuning/weights.ts";
import { plainDrafts } from "../oracles/plain-draft-head.ts";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";
import { directionalError } from "../support/tuning-variants.ts";

const TOKENS = 9;
const VOCAB = 40;
const DECAY = 0.7;
const EMBEDDING_SCALE = 1.5;
const BOUND = 5e-3;

const SHAPES: Readonly<Record<string, Partial<HeadShape>>> = {
  "grouped heads": { numHeads: 4, numKvHeads: 2 },
  "one key head": { numHeads: 3, numKvHeads: 1 },
};

const pool = new SessionPool({ threads: 1 });
afterAll(() => pool.dispose());

describe.each(Object.keys(SHAPES))("a head of %s", (name) => {
  test.each([1, 2, 3])("computes the loss and the best tokens of %i draft(s) as a plain chain does", async (drafts) => {
    const { run, plain } = setUp(name, drafts);
    const outputs = await run(false);
    const expected = plain();
    expect(floatOutput(outputs, "loss")[0]).toBeCloseTo(expected.loss, 5);
    for (const [row, logits] of expected.logits.entries()) {
      for (const [draft, own] of logits.entries()) {
        expect(Number(outputs[`best.${draft}`]?.data[row])).toBe(own.indexOf(Math.max(...own)));
      }
    }
  });

  test.each([1, 3])("has the gradients of the plain loss of %i draft(s)", async (drafts) => {
    const { run, plain, parameters } = setUp(name, drafts, 2);
    const outputs = await run(true);
    const gradients = new Map(parameters.map(({ key }) => [key, floatOutput(outputs, gradientName(key))]));
    for (const parameter of parameters) {
      const { key } = parameter;
      expect(
        directionalError([parameter], gradients, () => plain().loss),
        key,
      ).toBeLessThan(BOUND);
      const flipped = new Map([[key, gradients.get(key)!.map((slope) => -slope)]]);
      expect(
        directionalError([parameter], flipped, () => plain().loss),
        key,
      ).toBeGreaterThan(20 * BOUND);
    }
  });
});

test("chooses the most frequent tokens, then the lowest ones", () => {
  const { tokenIds, places } = chooseVocabulary([{ tokenIds: Int32Array.of(7, 3, 7, 5, 5, 7) }], 5, 10);
  expect(tokenIds).toEqual(Int32Array.of(0, 1, 3, 5, 7));
  expect(Array.from(places)).toEqual([0, 1, -1, 2, -1, 3, -1, 4, -1, -1]);
});

test("samples outputs whose exponentials have the expectation of all", () => {
  const random = seededRandom(4);
  const tokenIds = Int32Array.from({ length: 40 }, (_, place) => 2 * place);
  const places = Int32Array.from({ length: 80 }, (_, id) => (id % 2 === 0 ? id / 2 : -1));
  const candidates = Int32Array.of(6, 7, 8, 6, 70);
  const exponentials = Float64Array.from(tokenIds, () => Math.exp(2 * randomNormal(random)));
  const sampled = (numOthers: number, seed: number) =>
    sampleOutputs({ tokenIds, places }, candidates, { numOthers, seed });
  const runs = 20_000;
  let mean = 0;
  for (let seed = 0; seed < runs; seed++) {
    const chosen = sampled(5, seed);
    const sizes = new Map(chosen.places.map((place, output) => [place, chosen.corrections[output]]));
    expect(sizes.size).toBe(10);
    expect([3, 4, 35].map((place) => sizes.get(place))).toEqual([0, 0, 0]);
    for (const [place, correction] of sizes) mean += (exponentials[place]! * Math.exp(correction!)) / runs;
  }
  const whole = exponentials.reduce((sum, value) => sum + value);
  expect(Math.abs(mean / whole - 1)).toBeLessThan(0.02);
  const all = { places: Array.from(tokenIds.keys()), corrections: new Float32Array(40) };
  expect([sampled(38, 1), sampled(Infinity, 1)]).toEqual([all, all]);
  expect(sampled(5, 1)).toEqual(sampled(5, 1));
});

test("reads three different layers of models of any depth", () => {
  expect(tappedLayers(30)).toEqual([2, 15, 27]);
  expect(tappedLayers(28)).toEqual([2, 14, 25]);
  for (let numLayers = 4; numLayers < 12; numLayers++) {
    const layers = tappedLayers(numLayers);
    expect(layers).toEqual([...new Set(layers)].toSorted((a, b) => a - b));
    expect(layers).toHaveLength(TAPS);
    expect(layers.every((layer) => layer > 0 && layer < numLayers)).toBe(true);
  }
  expect(() => tappedLayers(3)).toThrow(RangeError);
});

function setUp(name: string, drafts: number, numOthers = Infinity) {
  const random = seededRandom(drafts);
  const floats = (count: number): Float32Array => Float32Array.from({ length: count }, () => randomNormal(random));
  const shape: HeadShape = {
    hiddenSize: 12,
    intermediate: 20,
    vocabulary: 30,
    numHeads: 4,
    numKvHeads: 2,
    headSize: 8,
    rope: { type: "default", theta: 100 },
    epsilon: 1e-5,
    ...SHAPES[name],
  };
  const { hiddenSize: size } = shape;
  const tokenIds = Int32Array.from({ length: TOKENS }, () => randomInteger(random, VOCAB));
  const vocabulary = chooseVocabulary([{ tokenIds }], shape.vocabulary, VOCAB);
  const embedding = floats(VOCAB * size);
  const source = {
    embedding,
    embeddingScale: EMBEDDING_SCALE,
    head: floats(shape.vocabulary * size),
    finalNorm: floats(size),
    magnitudes: floats(TAPS * size).map((x) => 0.5 + Math.abs(x)),
    vocabulary,
  };
  const stride = 6;
  const rows = {
    states: floats(TOKENS * TAPS * size),
    // Candidates of a row are different, and some are outside the draft vocabulary.
    candidates: Int32Array.from({ length: TOKENS * stride }, (_, i) => (7 * i + (i % stride)) % VOCAB),
    logits: floats(TOKENS * stride).map((x, i) => x - (i % stride)),
  };
  const chosen = sampleOutputs(vocabulary, rows.candidates, { numOthers, seed: 5 });
  const parameters = newParameters(shape, source, 3);
  for (const { values } of parameters) values.forEach((x, i) => (values[i] = x + 0.2 * randomNormal(random)));
  const weights = new Map(parameters.map((parameter) => [parameter.key, parameter]));
  const run = async (hasGradients: boolean) => {
    const lengths = { tokens: TOKENS, drafts, outputs: chosen.places.length, decay: DECAY };
    const graph = () => headGraph(shape, lengths, hasGradients);
    const session = await pool.get(`${name} ${drafts} ${lengths.outputs} ${hasGradients}`, graph);
    const feeds = headFeeds(source, tokenIds, rows, { drafts, weight: 0.1, chosen });
    return session.run({ ...weightFeeds([weights]), ...feeds });
  };
  const plain = () => {
    const folded = new Map(parameters.map(({ key, values }) => [key, Float64Array.from(values)]));
    folded.set("fc.weight", Float64Array.from(divideColumns(weights.get("fc.weight")!.values, source.magnitudes)));
    const inputs = {
      states: matrixOf(rows.states, TAPS * size),
      embeddings: Array.from(tokenIds, (id) =>
        embedding.subarray(id * size, (id + 1) * size).map((x) => x * EMBEDDING_SCALE),
      ),
      head: matrixOf(source.head, size),
    };
    const logits = plainDrafts({ ...shape, rotatedSize: shape.headSize, weights: folded }, inputs, drafts);
    let loss = 0;
    for (const [row, chain] of logits.entries()) {
      for (const [draft, own] of chain.entries()) {
        const teacher = row + 1 + draft;
        const known = Array.from({ length: stride }, (_, i) => ({
          place: vocabulary.tokenIds.indexOf(rows.candidates[teacher * stride + i]!),
          weight: Math.exp(rows.logits[teacher * stride + i]!),
        })).filter(({ place }) => place !== -1);
        const total = known.reduce((sum, { weight }) => sum + weight, 0);
        const shifted = chosen.places.map((place, output) => own[place]! + chosen.corrections[output]!);
        const normalizer = Math.log(shifted.reduce((sum, x) => sum + Math.exp(x), 0));
        for (const { place, weight } of known) {
          loss += 0.1 * DECAY ** draft * (weight / total) * (normalizer - own[place]!);
        }
      }
    }
    return { logits, loss };
  };
  return { run, plain, parameters };
}

function matrixOf(values: Float32Array, width: number): readonly Float32Array[] {
  return Array.from({ length: values.length / width }, (_, row) => values.subarray(row * width, (row + 1) * width));
}
