// One small model of all parts, for tests of what surrounds a step.

import {
  encodeStep,
  type Kernel,
  type KernelChoice,
  KV_PAGE_TOKENS,
  openKernel,
  type StepResults,
  type StepRows,
} from "@readme-moe/kernel";
import { packedBytes, setAllAngles } from "./packed-bytes.ts";
import type { ModelShape } from "./model-shape.ts";
import { MAX_POSITIONS, randomModel, type TestModel } from "./random-model.ts";

export const SMALL_SHAPE: ModelShape = {
  seed: 5,
  hiddenSize: 64,
  headSize: 16,
  numKvHeads: 2,
  ffnSize: 96,
  numExperts: 3,
  numLayers: 2,
  vocabSize: 70,
  formats: [1, 5, 10],
};

export const SMALL_SIZES = { threads: 2, maxRows: 32, maxPositions: MAX_POSITIONS } as const;

export const SMALL_MODEL: TestModel = randomModel(SMALL_SHAPE);

/** A model of these sizes whose layers all have experts. */
export const SMALL_EXPERTS: TestModel = modelWithExperts();

function modelWithExperts(): TestModel {
  for (let seed = 0; ; seed++) {
    const model = randomModel({ ...SMALL_SHAPE, formats: [1], seed });
    if (model.description.layers.every(({ experts = [] }) => experts.length > 0)) return model;
  }
}

let packed: Promise<Uint8Array> | undefined;

/** The model's packed file, which the caller owns. */
export async function smallBytes(): Promise<Uint8Array> {
  packed ??= packedBytes(SMALL_MODEL.description);
  return (await packed).slice();
}

/** Opens the small model, ready for steps. */
export async function openSmall(choice: KernelChoice, threads: number = SMALL_SIZES.threads): Promise<Kernel> {
  const kernel = openKernel(await smallBytes(), { ...SMALL_SIZES, threads }, choice);
  setAllAngles(kernel, SMALL_MODEL.plain);
  return kernel;
}

export const NUM_SMALL_PAGES = 4;

/** One sequence of `count` tokens from its beginning, of whose last one logits are wanted. */
function firstRows(count: number): StepRows {
  const numPages = Math.ceil(count / KV_PAGE_TOKENS);
  return {
    tokenIds: Array.from({ length: count }, (_, i) => (7 * i) % SMALL_SHAPE.vocabSize),
    experts: Array.from({ length: count }, (_, i) => i % SMALL_SHAPE.numExperts),
    position: 0,
    pages: Array.from({ length: numPages }, (_, page) => page),
    logitsOf: [count - 1],
  };
}

/** Room for the results of `numWanted` rows with one candidate each. */
export function resultsOf(numWanted: number): StepResults {
  return {
    candidateIds: new Int32Array(numWanted),
    logits: new Float32Array(2 * numWanted),
    sums: new Float64Array(2 * numWanted),
    fullLogits: new Float32Array(0),
  };
}

/** A step of 20 rows in two pages, of the last of which logits are wanted. */
export const SMALL_REQUEST: Int32Array = encodeStep([firstRows(20)], 1);
