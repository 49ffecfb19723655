// Writes a tuned model as a Read-ME folder.

import {
  baseFiles,
  decodeFloats,
  encodeFloats,
  ggmlTypeOf,
  isStoredFloat,
  readMeTensors,
  writeReadMeFolder,
  type Model,
  type ReadMeContent,
  type SafetensorsInput,
} from "@readme-moe/model";
import { typeOfWidth } from "../blocks/block-mixes.ts";
import { roundToBlocks } from "../blocks/round-blocks.ts";
import { routerSection, routerTensors } from "../router-training/router-trainer.ts";
import type { DecoderWeights, Weight, WeightGroup } from "./weights.ts";
import { LEFT, RIGHT, type Trained } from "./parameters.ts";
import type { KeptRouter } from "./tuning-router.ts";

export interface Tuned {
  readonly weights: DecoderWeights;
  readonly trained: Trained;
  /** Router that replaces the model's own. */
  readonly router: KeptRouter | undefined;
  readonly provenance: Readonly<Record<string, unknown>>;
}

/**
 * Writes `model` with its tuned weights, in the model's own types; changed blocks are rounded again.
 *
 * @throws {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function writeTuned(
  path: string,
  model: Model,
  { weights, trained, router, provenance }: Tuned,
): Promise<void> {
  const { config, texts } = await baseFiles(model);
  const { readme: section, ...own } = config;
  const before = section as ReadMeContent["readme"];
  const tuned = tunedWeights(weights, trained);
  const replace = (file: string, tensors: readonly SafetensorsInput[]): readonly SafetensorsInput[] =>
    tensors.map((tensor) => {
      const values = tuned.get(`${file}/${tensor.name}`);
      return values ? tunedTensor(tensor, values) : tensor;
    });
  const tensors = readMeTensors(model.weights, model.router, { keepsBlocks: true });
  await writeReadMeFolder(path, {
    config: own,
    readme: {
      ...before,
      ...(router ? { router: routerSection(router.config) } : {}),
      provenance: { ...before.provenance, tuning: provenance },
    },
    tensors: {
      backbone: replace("backbone", tensors.backbone),
      experts: tensors.experts.map((expert, index) => replace(`${index}`, expert)),
      router: router ? routerTensors(router.config, router.parameters) : tensors.router,
    },
    documents: texts,
  });
}

/** Computes a tuned weight. @param tensor - the weight as it was */
type TunedValues = (tensor: SafetensorsInput) => Promise<Float32Array>;

/** Maps the keys of trained weights, and of those with changes of low rank, to what computes them. */
function tunedWeights(
  { layers, finalNorm }: DecoderWeights,
  { parameters, composed }: Trained,
): ReadonlyMap<string, TunedValues> {
  const trained = new Set([...parameters, ...composed].map(({ key }) => key));
  const tuned = new Map<string, TunedValues>([[finalNorm.key, async () => finalNorm.values]]);
  for (const { attention, common, experts } of layers) {
    for (const group of [attention, common, ...experts]) {
      for (const [name, weight] of group) {
        const change = changeOf(group, name);
        if (change) tuned.set(weight.key, async (tensor) => withChange(await floatsOf(tensor, weight), change));
        else if (trained.has(weight.key)) tuned.set(weight.key, async () => weight.values);
      }
    }
  }
  return tuned;
}

/** Reads the values of a weight, of which a frozen product keeps none. */
async function floatsOf({ bytes, type }: SafetensorsInput, { values, frozen }: Weight): Promise<Float32Array> {
  if (!frozen) return values;
  return isStoredFloat(type) ? decodeFloats(await bytes(), type) : dequantized(await bytes(), type);
}

function dequantized(bytes: Uint8Array, type: SafetensorsInput["type"]): Float32Array {
  const values = ggmlTypeOf(type)?.dequantize?.(bytes);
  if (!values) throw new TypeError(`Expected a weight of floats or blocks, got one of ${type}`);
  return values;
}

/** Factors of a change, `[rank, in]` and `[out, rank]`. */
type Change = readonly [left: Weight, right: Weight];

function changeOf(group: WeightGroup, name: string): Change | undefined {
  if (!name.endsWith(".weight")) return undefined;
  const product = name.replace(/\.weight$/, "");
  const [left, right] = [group.get(product + LEFT), group.get(product + RIGHT)];
  return left && right && [left, right];
}

/** Adds a change to weights `[out, in]`. */
function withChange(values: Float32Array, [left, right]: Change): Float32Array {
  const [rank = 0, size = 0] = left.shape;
  const [out = 0] = right.shape;
  const result = values.slice();
  // Values of composed weights are put together at each access.
  const [lines, shares] = [left.values, right.values];
  for (let row = 0; row < out; row++) {
    const own = result.subarray(row * size, (row + 1) * size);
    for (let k = 0; k < rank; k++) {
      const share = shares[row * rank + k]!;
      const line = lines.subarray(k * size, (k + 1) * size);
      for (let i = 0; i < size; i++) own[i]! += share * line[i]!;
    }
  }
  return result;
}

/** Makes a tensor of the same type, or of the nearest one that weights can be rounded to. */
function tunedTensor(tensor: SafetensorsInput, values: TunedValues): SafetensorsInput {
  const type = isStoredFloat(tensor.type) ? tensor.type : typeOfWidth(tensor.type, tensor.shape.at(-1) ?? 1);
  const bytes = async (): Promise<Uint8Array> => {
    const own = await values(tensor);
    return isStoredFloat(type) ? encodeFloats(own, type) : roundToBlocks(own, type);
  };
  return { ...tensor, type, bytes };
}
