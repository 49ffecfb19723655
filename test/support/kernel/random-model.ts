// Random small decoders with every part that a family may have or not have.

import type { DecoderDescription, ExpertDescription } from "@readme-moe/kernel";
import type { RecurrenceConfig, RecurrenceRefs } from "@readme-moe/model";
import { packConvolution, packRates, packTable } from "../../../packages/kernel/src/pack/pack-tables.ts";
import type { PlainFeedForward, PlainLayer, PlainModel } from "../../oracles/plain-kernel.ts";
import type { PlainWeights } from "../../oracles/plain-kernel-product.ts";
import { roundToHalf } from "../../oracles/plain-kernel-numbers.ts";
import { randomInteger, seededRandom } from "../random.ts";
import { memoryTensor } from "./memory-store.ts";
import type { ModelShape } from "./model-shape.ts";
import {
  fits,
  randomFloats,
  randomNorm,
  randomWeights,
  type TestTensor,
  WEIGHT_FORMATS,
  type WeightFormat,
  type WeightsShape,
} from "./random-weights.ts";

/** A model in memory, and as the kernel is told of it. */
export interface TestModel {
  readonly plain: PlainModel;
  readonly description: DecoderDescription;
  /** Whether any product is in float32. */
  readonly hasFloats: boolean;
}

/** Positions that models have angles of, unless their shape says otherwise. */
export const MAX_POSITIONS = 128;

// Values that are too large for halves, below the normal ones, and so small that inputs of a product count as zeros.
const VALUE_EXPONENTS = [16, 15, 14, -14, -17, -20, -98, -100, -102] as const;

const HEADS_PER_KEY = [1, 1, 2, 3, 4, 5, 8, 13] as const;

/** The last models, since kernels of both kinds are compared with the same ones. */
const MODELS = new Map<string, TestModel>();
const MAX_MODELS = 32;

/** Makes the model of a shape; always the same one. */
export function randomModel(shape: ModelShape): TestModel {
  const key = JSON.stringify(shape);
  const model = MODELS.get(key) ?? new ModelMaker(shape).model();
  MODELS.delete(key);
  MODELS.set(key, model);
  for (const [oldest] of [...MODELS].slice(0, -MAX_MODELS)) MODELS.delete(oldest);
  return model;
}

class ModelMaker {
  readonly #shape: ModelShape;
  readonly #random: () => number;
  readonly #rotatedSizes: readonly number[];
  #hasFloats = false;
  #numAngleSets = 0;

  constructor(shape: ModelShape) {
    this.#shape = shape;
    this.#random = seededRandom(shape.seed);
    const numAngleSets = this.#integer(0, 2);
    const sizes = Array.from({ length: numAngleSets }, () => 2 * this.#integer(1, shape.headSize / 2));
    const isSame = shape.recurrentShare !== undefined && this.#chance(0.5);
    this.#rotatedSizes = isSame ? sizes.map(() => sizes[0]!) : sizes;
  }

  model(): TestModel {
    const { hiddenSize, vocabSize, numLogits = vocabSize, numLayers, recurrentShare = 0 } = this.#shape;
    const layers = Array.from({ length: numLayers }, () => this.#layer());
    const finalNorm = randomNorm(this.#random, hiddenSize);
    const head = this.#product(numLogits, hiddenSize, { hasTwins: this.#chance(0.5) });
    const isTied = numLogits === vocabSize && this.#chance(0.4);
    const embedding = isTied ? head : this.#table(vocabSize, hiddenSize);
    const scalars = {
      vocabSize,
      numLogits: this.#shape.numLogits,
      hiddenSize,
      normEpsilon: 1e-5,
      embeddingScale: this.#chance(0.5) ? 1 : 0.5 + 3 * this.#random(),
      logitScale: this.#chance(0.5) ? 1 : 0.3 + this.#random(),
      caps: recurrentShare > 0 && this.#chance(0.4) ? { scores: 3, logits: 2 } : undefined,
      numExperts: this.#shape.numExperts,
    };
    const angles = this.#rotatedSizes.slice(0, this.#numAngleSets).map((rotatedSize) => this.#angles(rotatedSize));
    return {
      plain: {
        ...scalars,
        embedding: embedding.plain,
        layers: layers.map(({ plain }) => plain),
        finalNorm: finalNorm.plain,
        head: head.plain,
        angles,
      },
      description: {
        ...scalars,
        embedding: embedding.packed,
        layers: layers.map(({ packed }) => packed),
        finalNorm: finalNorm.packed,
        head: head.packed,
      },
      hasFloats: this.#hasFloats,
    };
  }

  #layer() {
    const { hiddenSize, ffnSize, numExperts, recurrentShare = 0 } = this.#shape;
    const recurrence = recurrentShare > 0 && this.#chance(recurrentShare) ? this.#recurrence() : undefined;
    const { headSize, numKvHeads } = recurrence?.heads ?? this.#shape;
    const perKey = HEADS_PER_KEY[this.#integer(0, HEADS_PER_KEY.length - 1)] as number;
    const numHeads = recurrence?.heads.numHeads ?? numKvHeads * perKey;
    const { valueSize = headSize } = recurrence?.heads ?? {};
    const outputSize = numHeads * valueSize;
    const keySize = numKvHeads * headSize;
    const querySize = recurrence ? keySize : numHeads * headSize;
    const gates = recurrence ? recurrence.heads.kind !== "convolution" : recurrentShare > 0 && this.#chance(0.4);
    const biasScale = this.#chance(0.4) ? 0.3 : 0;
    const valueScale = this.#chance(0.5)
      ? 1
      : 2 ** (VALUE_EXPONENTS[this.#integer(0, VALUE_EXPONENTS.length - 1)] as number);
    const normsAllHeads = this.#chance(0.4);
    const headNorms = this.#chance(0.5);
    const outputNorms = this.#chance(0.3);
    const inputNorms = !outputNorms || this.#chance(0.5);
    const angleSet = this.#numAngleSets < this.#rotatedSizes.length && !recurrence ? this.#numAngleSets++ : undefined;
    const scalars = {
      numHeads,
      numKvHeads,
      headSize,
      angleSet,
      // Another set for queries than for keys.
      queryAngleSet: angleSet === 1 && this.#rotatedSizes[0] === this.#rotatedSizes[1] ? 0 : undefined,
      rotatedSize: angleSet === undefined ? headSize : (this.#rotatedSizes[angleSet] as number),
      slidingWindow: this.#chance(0.4) ? this.#integer(1, this.#shape.maxPositions ?? 40) : undefined,
      attentionScale: (0.5 + this.#random()) / Math.sqrt(headSize),
      residualScale: this.#chance(0.6) ? 1 : 0.2 + this.#random(),
      activation: recurrentShare > 0 && this.#chance(0.3) ? "clamped" : this.#chance(0.5) ? "silu" : "gelu-tanh",
      normsAllHeads,
    } as const;
    const tensors = {
      attentionNorm: inputNorms ? randomNorm(this.#random, hiddenSize) : undefined,
      query: this.#product(querySize, hiddenSize, { biasScale }),
      key: this.#product(keySize, hiddenSize, { biasScale }),
      sinks: recurrentShare > 0 && !recurrence && this.#chance(0.4) ? randomNorm(this.#random, numHeads) : undefined,
      outputGate: gates ? this.#product(outputSize, hiddenSize) : undefined,
      value: this.#product(recurrence ? outputSize : keySize, hiddenSize, {
        biasScale: biasScale * valueScale,
        weightScale: valueScale,
      }),
      queryNorm: headNorms ? randomNorm(this.#random, normsAllHeads ? querySize : headSize) : undefined,
      keyNorm: headNorms ? randomNorm(this.#random, normsAllHeads ? keySize : headSize) : undefined,
      attentionOutput: this.#product(hiddenSize, outputSize, { biasScale, weightScale: 1 / valueScale }),
      attentionOutputNorm: outputNorms ? randomNorm(this.#random, hiddenSize) : undefined,
      ffnNorm: inputNorms ? randomNorm(this.#random, hiddenSize) : undefined,
      ffnOutputNorm: outputNorms ? randomNorm(this.#random, hiddenSize) : undefined,
    };
    const parts = Object.entries(tensors);
    const mixture = this.#mixture(biasScale);
    const hasExperts = mixture === undefined && numExperts > 1 && this.#chance(0.8);
    const shared =
      !(hasExperts || mixture) || mixture?.gatesShared || this.#chance(0.5)
        ? this.#feedForward(ffnSize, { biasScale }, this.#chance(0.7))
        : undefined;
    const expertSize = this.#shape.expertSize ?? this.#integer(8, 70);
    const experts = Array.from({ length: hasExperts ? numExperts : 0 }, () =>
      this.#feedForward(expertSize, { biasScale }, true),
    );
    return {
      plain: {
        ...scalars,
        ...Object.fromEntries([
          ...parts.map(([name, tensor]) => [name, tensor?.plain] as const),
          ["recurrence", recurrence?.plain] as const,
          ["shared", shared?.plain] as const,
          ["experts", experts.map(({ plain }) => plain)] as const,
          ["mixture", mixture?.plain] as const,
        ]),
      } as PlainLayer,
      packed: {
        ...scalars,
        ...Object.fromEntries([
          ...parts.map(([name, tensor]) => [name, tensor?.packed] as const),
          ["recurrence", recurrence?.packed] as const,
          ["shared", shared?.packed] as const,
          ["experts", experts.map(({ packed }) => packed)] as const,
          ["mixture", mixture?.packed] as const,
        ]),
      } as DecoderDescription["layers"][number],
    };
  }

  /** Makes a recurrence of a random kind, and its heads. */
  #recurrence() {
    const { hiddenSize } = this.#shape;
    const kinds = ["convolution", "delta", "space"] as const;
    const kind = kinds[this.#integer(0, 2)]!;
    const isShort = kind === "convolution";
    const numKvHeads = isShort ? 1 : this.#integer(1, 2);
    const numHeads = isShort ? 1 : numKvHeads * this.#integer(1, 3);
    const headSize = isShort ? hiddenSize : 4 * this.#integer(1, 9);
    // Heads that share a key are normed in whole vectors.
    const columns = this.#integer(1, 36);
    const valueSize = isShort
      ? hiddenSize
      : kind === "space" && numKvHeads > 1
        ? 16 * Math.ceil(columns / 16)
        : columns;
    // A convolution that sees one position has no state.
    const heads = {
      kind,
      numTaps: this.#integer(isShort ? 2 : 1, 5),
      numHeads,
      numKvHeads,
      headSize,
      valueSize,
      isTiled: this.#chance(0.5),
    };
    const channels = isShort ? hiddenSize : 2 * numKvHeads * headSize + numHeads * valueSize;
    const numbers = (length: number, scale: number): Float32Array => randomFloats(this.#random, length, scale);
    const weights = numbers(channels * heads.numTaps, 0.6);
    const bias = this.#chance(0.5) ? numbers(channels, 0.2) : undefined;
    const taps = Array.from({ length: heads.numTaps }, (_, tap) =>
      weights.filter((_value, i) => i % heads.numTaps === tap),
    );
    const [logarithms, rateBiases, skips] = [numbers(numHeads, 1), numbers(numHeads, 1), numbers(numHeads, 1)];
    const product = (isThere: boolean): TestTensor<PlainWeights> | undefined =>
      isThere ? this.#product(numHeads, hiddenSize) : undefined;
    const [strength, decay] = [product(kind === "delta"), product(!isShort)];
    const norm = isShort ? undefined : randomNorm(this.#random, kind === "delta" ? valueSize : numHeads * valueSize);
    const refs: RecurrenceRefs = {
      convolution: memoryTensor(weights, [channels, 1, heads.numTaps]),
      convolutionBias: bias && memoryTensor(bias, [channels]),
      firstChannels: isShort ? [0, 0, 0] : [0, numKvHeads * headSize, 2 * numKvHeads * headSize],
      strength: undefined,
      decay: undefined,
      rates: isShort ? undefined : memoryTensor(logarithms, [numHeads]),
      rateBiases: isShort ? undefined : memoryTensor(rateBiases, [numHeads]),
      skips: memoryTensor(skips, [numHeads]),
      outputNorm: undefined,
    };
    const sizes = [numKvHeads * headSize, numKvHeads * headSize, numHeads * valueSize] as const;
    const config = { kind, numTaps: heads.numTaps } as RecurrenceConfig;
    const [convolution, rates] = [packConvolution(refs, config, sizes), packRates(refs)];
    return {
      heads,
      plain: {
        ...heads,
        taps: bias ? [...taps, bias] : taps,
        rates: logarithms.map((x) => -Math.exp(x)),
        biases: rateBiases,
        skips,
        outputNorm: norm?.plain,
        strength: strength?.plain,
        decay: decay?.plain,
      },
      packed: {
        ...heads,
        convolution,
        rates,
        outputNorm: norm?.packed,
        strength: strength?.packed,
        decay: decay?.packed,
      },
    };
  }

  /** Makes a mixture in some layers of shapes that have any. */
  #mixture(biasScale: number) {
    const { hiddenSize, mixture } = this.#shape;
    if (!mixture || !this.#chance(mixture.share)) return undefined;
    const { numExperts, expertsPerToken } = mixture;
    const normalizesWeights = this.#chance(0.5);
    const gatesShared = this.#chance(0.3);
    // Experts with the same row in the router have equal logits.
    const router = randomWeights(this.#random, {
      format: WEIGHT_FORMATS[0],
      // The part that all tokens use may have a gate.
      numOut: numExperts + Number(gatesShared),
      numIn: hiddenSize,
      biasScale: 0,
      hasTwins: this.#chance(0.4),
    });
    const expertSize = this.#shape.expertSize ?? this.#integer(8, 70);
    const experts = Array.from({ length: numExperts }, () => this.#feedForward(expertSize, { biasScale }, true));
    const choice = { expertsPerToken: Math.min(expertsPerToken, numExperts), normalizesWeights };
    const hasSigmoids = this.#shape.recurrentShare !== undefined && this.#chance(0.5);
    const biases = hasSigmoids ? randomNorm(this.#random, numExperts) : undefined;
    const scale = hasSigmoids ? { weightScale: 1 + this.#random() } : {};
    return {
      gatesShared,
      plain: {
        router: router.plain,
        experts: experts.map(({ plain }) => plain),
        biases: biases?.plain,
        ...choice,
        ...scale,
      },
      packed: {
        router: router.packed,
        experts: experts.map(({ packed }) => packed),
        biases: biases?.packed,
        ...choice,
        ...scale,
      },
    };
  }

  #feedForward(size: number, biases: { readonly biasScale: number }, hasGate: boolean) {
    const { hiddenSize } = this.#shape;
    const gate = hasGate ? this.#product(size, hiddenSize, biases) : undefined;
    const [up, down] = [this.#product(size, hiddenSize, biases), this.#product(hiddenSize, size, biases)];
    return {
      plain: { gate: gate?.plain, up: up.plain, down: down.plain } satisfies PlainFeedForward,
      packed: { gate: gate?.packed, up: up.packed, down: down.packed } as ExpertDescription,
    };
  }

  #product(
    numOut: number,
    numIn: number,
    more: Partial<Pick<WeightsShape, "biasScale" | "weightScale" | "hasTwins">> = {},
  ): TestTensor<PlainWeights> {
    const { formats } = this.#shape;
    const chosen = WEIGHT_FORMATS[formats[this.#integer(0, formats.length - 1)] as number] as WeightFormat;
    // Half precision cannot be as small or large as some models' weights.
    const isInRange = (chosen.name !== "file" && chosen.name !== "short") || (more.weightScale ?? 1) === 1;
    const format = isInRange && fits(chosen, numIn) ? chosen : WEIGHT_FORMATS[1];
    if (format.name === "float" || format.name === "short") this.#hasFloats = true;
    return randomWeights(this.#random, { format, numOut, numIn, biasScale: 0, ...more });
  }

  #table(numOut: number, numIn: number): TestTensor<PlainWeights> {
    const isHalf = this.#chance(0.5);
    const floats = randomFloats(this.#random, numOut * numIn, 1);
    const values = isHalf ? floats.map(roundToHalf) : floats;
    const ref = memoryTensor(floats, [numOut, numIn]);
    return {
      plain: { format: "float", numOut, numIn, values },
      packed: packTable(ref, isHalf ? "half-table" : "float-table"),
    };
  }

  #angles(rotatedSize: number): readonly Float32Array[] {
    return Array.from({ length: this.#shape.maxPositions ?? MAX_POSITIONS }, () => {
      const turns = Array.from({ length: rotatedSize / 2 }, () => 2 * Math.PI * this.#random());
      return Float32Array.from([...turns.map(Math.cos), ...turns.map(Math.sin)]);
    });
  }

  #chance(share: number): boolean {
    return this.#random() < share;
  }

  #integer(min: number, max: number): number {
    return min + randomInteger(this.#random, max - min + 1);
  }
}
