// Writes a tuned model as a Read-ME folder.

import {
  baseFiles,
  decodeFloats,
  encodeFloats,
  isStoredFloat,
  readMeTensors,
  writeReadMeFolder,
  type Model,
  type ReadMeContent,
  type SafetensorsInput,
} from "@readme-moe/model";
import { routerSection, routerTensors } from "../router-training/router-trainer.ts";
import type { DecoderWeights, Weight, WeightGroup } from "./weights.ts";
import { LEFT, RIGHT } from "./parameters.ts";
import type { KeptRouter } from "./tuning-router.ts";

export interface Tuned {
  readonly weights: DecoderWeights;
  /** Router that replaces the model's own. */
  readonly router: KeptRouter | undefined;
  readonly provenance: Readonly<Record<string, unknown>>;
}

/**
 * Writes `model` with its tuned weights, in the model's own types.
 *
 * @throws {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function writeTuned(path: string, model: Model, { weights, router, provenance }: Tuned): Promise<void> {
  const { config, texts } = await baseFiles(model);
  const { readme: section, ...own } = config;
  const before = section as ReadMeContent["readme"];
  const tuned = tunedWeights(weights);
  const replace = (file: string, tensors: readonly SafetensorsInput[]): readonly SafetensorsInput[] =>
    tensors.map((tensor) => {
      const values = tuned.get(`${file}/${tensor.name}`);
      return values ? { ...tensor, bytes: async () => encoded(await values(tensor), tensor) } : tensor;
    });
  const tensors = readMeTensors(model.weights, model.router);
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

/** Maps the key of each weight to a function that computes the tuned weight. */
function tunedWeights({ layers, finalNorm }: DecoderWeights): ReadonlyMap<string, TunedValues> {
  const tuned = new Map<string, TunedValues>([[finalNorm.key, async () => finalNorm.values]]);
  for (const { attention, common, experts } of layers) {
    for (const group of [attention, common, ...experts]) {
      for (const [name, weight] of group) tuned.set(weight.key, (tensor) => withChange(group, name, weight, tensor));
    }
  }
  return tuned;
}

/** Computes a tuned weight. @param tensor - the weight as it was */
type TunedValues = (tensor: SafetensorsInput) => Promise<Float32Array>;

/** Adds a weight's low-rank change, if it has one. */
async function withChange(
  group: WeightGroup,
  name: string,
  { values: floats, shape, frozen }: Weight,
  { bytes, type }: SafetensorsInput,
): Promise<Float32Array> {
  const values = frozen && isStoredFloat(type) ? decodeFloats(await bytes(), type) : floats;
  const product = name.replace(/\.weight$/, "");
  const [left, right] = [group.get(product + LEFT), group.get(product + RIGHT)];
  if (!name.endsWith(".weight") || !left || !right) return values;
  const [out = 0, size = 0] = shape;
  const [rank = 0] = left.shape;
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

function encoded(values: Float32Array, { type, name }: SafetensorsInput): Uint8Array {
  if (isStoredFloat(type)) return encodeFloats(values, type);
  throw new TypeError(`Expected ${name} to be of floats, it is of ${type}`);
}
