// Compares the gradients of all trained parameters of a small model with differences of an independent implementation
// in double precision.

import { join } from "node:path";
import { FrozenProduct, ProductTeam } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { afterAll, describe, expect, test } from "vitest";
import type { Frozen } from "../../packages/refactor/src/graphs/staged-session.ts";
import { readDecoderWeights, type Weight } from "../../packages/refactor/src/tuning/weights.ts";
import {
  chooseParameters,
  type Parameter,
  findExpertNeurons,
  gatesOf,
} from "../../packages/refactor/src/tuning/parameters.ts";
import { Trainer } from "../../packages/refactor/src/tuning/train.ts";
import { plainLoss } from "../oracles/plain-distillation.ts";
import { exactProduct, type Freeze, frozenWeights } from "../support/frozen-weights.ts";
import { memoryLinear } from "../support/kernel/memory-store.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";
import { directionalError, VARIANTS, withVariant, type Variant } from "../support/tuning-variants.ts";

const folder = await persistentFolder();
const TOKENS = 7;
const SEQUENCES = RUNS_LONG_TESTS ? 3 : 2;
const LABEL_SHARE = 0.3;
// Relative error of losses in float32 over two layers; a wrong sign has an error of at least 1.
const BOUND = 5e-3;

const trainers: Trainer[] = [];
const models: Model[] = [];
afterAll(async () => {
  for (const trainer of trainers) await trainer.dispose();
  for (const model of models) await model.close();
});

const WAYS = [
  ["lora", "none", "frozen"],
  ["full", "neurons", "float"],
  ["full", "none", "float"],
  ["lora", "neurons", "float"],
] as const;

describe.each([...Object.keys(VARIANTS).entries()])("variant %i, with %s", (index, name) => {
  const options = VARIANTS[name] ?? {};
  // The first variant is trained in every way; the others by turns in two of them.
  const isWhole = index === 0 || RUNS_LONG_TESTS;
  test.each(WAYS.filter((_, way) => isWhole || way >> 1 === index % 2))(
    "gradients of %s, sharing %s, with %s products, agree with differences of the plain loss",
    async (method, sharing, products) => {
      const freeze = products === "frozen" ? exactProduct : undefined;
      const { trainer, parameters, loss, sequences } = await setUp(options, { method, sharing, freeze });
      const kinds = new Set(parameters.map(kindOf));
      expect([...kinds].some((kind) => kind.startsWith("shared/"))).toBe(sharing === "neurons");
      const figures = await trainer.gradients(sequences);
      const gradients = takeGradients(trainer, parameters);
      expect(figures.divergence + LABEL_SHARE * figures.crossEntropy).toBeCloseTo(loss(), 4);
      // Each kind of parameter is compared separately: large gradients would hide small ones.
      for (const kind of kinds) {
        const some = parameters.filter((parameter) => kindOf(parameter) === kind && gradients.has(parameter.key));
        if (some.length > 0) expect(directionalError(some, gradients, loss), kind).toBeLessThan(BOUND);
      }
    },
  );
});

test("detects a gradient with a wrong sign", async () => {
  const { trainer, parameters, loss, sequences } = await setUp({}, { method: "full" });
  await trainer.gradients(sequences);
  const gradients = takeGradients(trainer, parameters);
  for (const kind of new Set(parameters.map(kindOf))) {
    const some = parameters.filter((parameter) => kindOf(parameter) === kind && gradients.has(parameter.key));
    const flipped = new Map(some.map(({ key }) => [key, gradients.get(key)!.map((slope) => -slope)]));
    expect(directionalError(some, flipped, loss), kind).toBeGreaterThan(20 * BOUND);
  }
});

test("brings the student's distributions close to its teacher's", async () => {
  const { trainer, sequences } = await setUp({}, { method: "full" });
  const rates = { matrices: 3e-3, vectors: 3e-3, weightDecay: 0 };
  const first = await trainer.step(sequences, rates);
  let last = first;
  for (let step = 1; step < 60; step++) last = await trainer.step(sequences, rates);
  expect(last.divergence).toBeLessThan(0.2 * first.divergence);
});

test("has the same gradients for sequences run together and one by one", async () => {
  const [together, apart] = [
    await setUp({}, { method: "full" }),
    await setUp({}, { method: "full", microSequences: 1 }),
  ];
  await together.trainer.gradients(together.sequences);
  await apart.trainer.gradients(apart.sequences);
  const [a, b] = [together, apart].map(({ trainer, parameters }) => takeGradients(trainer, parameters));
  expect([...a!.keys()].toSorted()).toEqual([...b!.keys()].toSorted());
  for (const [key, gradient] of a!) {
    gradient.forEach((slope, i) => expect(Math.abs(slope - b!.get(key)![i]!)).toBeLessThan(1e-4));
  }
});

test("has nearly the same gradients in the kernel's 8 bits", async () => {
  const exact = await setUp({}, { method: "lora" });
  const team = new ProductTeam(2);
  const inKernel = ({ shape: [, numIn = 0], values }: Weight): Promise<Frozen> =>
    FrozenProduct.open(team, memoryLinear(values, numIn, undefined), { hasGradients: true });
  const rounded = await setUp({}, { method: "lora", freeze: inKernel });
  const figures = await rounded.trainer.gradients(rounded.sequences);
  expect(figures.divergence + LABEL_SHARE * figures.crossEntropy).toBeCloseTo(exact.loss(), 0);
  await exact.trainer.gradients(exact.sequences);
  const [a, b] = [exact, rounded].map(({ trainer, parameters }) => takeGradients(trainer, parameters));
  expect([...a!.keys()].toSorted()).toEqual([...b!.keys()].toSorted());
  for (const [key, gradient] of a!) {
    const other = b!.get(key)!;
    expect(dot(gradient, other) / Math.sqrt(dot(gradient, gradient) * dot(other, other)), key).toBeGreaterThan(0.98);
  }
  team.close();
});

interface Setting {
  readonly method: "lora" | "full";
  readonly sharing?: "neurons" | "none";
  readonly microSequences?: number;
  /** Makes frozen products, in the trainer alone. */
  readonly freeze?: Freeze | undefined;
}

async function setUp(options: Variant, { method, sharing = "none", microSequences = SEQUENCES, freeze }: Setting) {
  const name = join(folder, `${models.length}`);
  await writeTinyReadMe(name, { ...options, seed: 3 });
  await writeTinyReadMe(`${name}-teacher`, { ...options, seed: 4, numExperts: 1, expertSizes: [48, 64] });
  const [student, teacher] = [await openModel(name), await openModel(`${name}-teacher`)];
  models.push(student, teacher);
  const weights = { student: await readDecoderWeights(student), teacher: await readDecoderWeights(teacher) };
  const config = { ...student.config, ...options.decoder };
  for (const one of Object.values(weights)) withVariant(one, options);
  const neurons =
    sharing === "neurons"
      ? await findExpertNeurons({ student: gatesOf(student), teacher: gatesOf(teacher) }, { threads: 1 })
      : undefined;
  const trained = chooseParameters(weights.student, {
    method,
    rank: 3,
    attention: true,
    seed: 5,
    sharing: neurons && { neurons, intermediateSize: teacher.config.intermediateSize, rank: 2 },
  });
  const { parameters } = trained;
  const random = seededRandom(6);
  // The left factor of a zero change has no gradient.
  for (const { key, values } of parameters) {
    if (key.endsWith(".right")) values.forEach((_, i) => (values[i] = 0.3 * randomNormal(random)));
  }
  const settings = { sequenceTokens: TOKENS, microSequences, labelShare: LABEL_SHARE, threads: 1, signal: undefined };
  const own = freeze
    ? { student: await frozenWeights(weights.student, freeze), teacher: await frozenWeights(weights.teacher, freeze) }
    : weights;
  const trainer = new Trainer(config, own, trained, settings);
  trainers.push(trainer);
  const sequences = Array.from({ length: SEQUENCES }, () => ({
    tokenIds: Int32Array.from({ length: TOKENS }, () => randomInteger(random, student.config.vocabSize)),
    experts: Uint16Array.from({ length: TOKENS }, () => randomInteger(random, 2)),
    domain: 0,
  }));
  const loss = (): number => plainLoss(config, weights, sequences, LABEL_SHARE);
  return { trainer, parameters, loss, sequences, weights };
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function takeGradients(trainer: Trainer, parameters: readonly Parameter[]): Map<string, Float32Array> {
  const gradients = new Map<string, Float32Array>();
  for (const { key } of parameters) {
    const gradient = trainer.optimizer.gradient(key);
    if (gradient) gradients.set(key, gradient);
  }
  return gradients;
}

/** Removes file and layer from a key: `self_attn.q_proj.weight.left`. Changes in common are a kind of their own. */
function kindOf({ key }: Parameter): string {
  return key.replace(/^(shared\/)?(?:\w+\/)?model\.(?:layers\.\d+\.)?/, "$1");
}
