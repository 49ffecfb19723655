// What can be done about each tensor of a Read-ME model, before sizes are shared out.

import { encodeFloats, isStoredFloat } from "@readme-moe/model";
import type { BaseWeights } from "./base-weights.ts";
import type { Products } from "../linear-algebra/products.ts";
import { codeCost } from "./coded-values.ts";
import { asInBase, codingChoices, squareOf, whole, type CodingChoice } from "./choices.ts";
import { weighKinds } from "./weigh-kinds.ts";
import { scaledColumns, scalesOf, type InputScales } from "./input-scales.ts";
import { readTarget, readTargetBytes, type Target } from "./targets.ts";

/** A target with the ways to store it. */
export interface TensorPlan {
  readonly target: Target;
  /** One where there is nothing to choose. */
  readonly choices: readonly CodingChoice[];
}

// Smaller tensors, such as norms and biases, are stored as they are: their errors reach every token.
const LEAST_CODED = 4096;
// The router's table of embeddings: root mean square over step, finest first, and the share of the file that it may take.
const ROUTER_FINENESS = [16, 8, 4, 2] as const;
const ROUTER_SHARE = 1 / 8;
const LEAST_CODED_OF_ROUTER = 1 << 14;

/** @param onTensor - is told how many are done */
export async function planTensors(
  targets: readonly Target[],
  base: BaseWeights,
  products: Products,
  scales: InputScales | undefined,
  maxBytes: number,
  onTensor: (done: number) => void,
): Promise<readonly TensorPlan[]> {
  const plans: TensorPlan[] = [];
  for (const target of targets) {
    onTensor(plans.length);
    const choices =
      target.file === "router"
        ? await routerChoices(target, maxBytes)
        : await weightChoices(target, base, products, scales);
    plans.push({ target, choices });
  }
  return weighKinds(plans);
}

async function weightChoices(
  target: Target,
  base: BaseWeights,
  products: Products,
  scales: InputScales | undefined,
): Promise<readonly CodingChoice[]> {
  const { name, type, shape } = target.input;
  const bytes = await readTargetBytes(target);
  const asItIs = [whole(bytes.byteLength)];
  if (!isStoredFloat(type)) return asItIs;
  const inBase = await base.inPlaceOf(name, target.part?.neurons);
  if (inBase && Buffer.compare(bytes, encodeFloats(inBase, type)) === 0) {
    return [asInBase(0)];
  }
  const own = scalesOf(scales, target.file, name, target.part?.neurons);
  const change = scaledColumns(difference(await readTarget(target), inBase), own, "times");
  const [rows, columns] = shape;
  const square = squareOf(change);
  const isCoded = columns !== undefined && change.length >= LEAST_CODED && square > 0 && Number.isFinite(square);
  return isCoded ? codingChoices(products, change, [rows as number, columns], bytes.byteLength) : asItIs;
}

async function routerChoices(target: Target, maxBytes: number): Promise<readonly CodingChoice[]> {
  const { type, shape } = target.input;
  const bytes = (await target.input.bytes()).byteLength;
  const asItIs = [whole(bytes)];
  if (!isStoredFloat(type) || shape.length !== 2) return asItIs;
  const values = await readTarget(target);
  const square = squareOf(values);
  if (values.length < LEAST_CODED_OF_ROUTER || !(square > 0) || !Number.isFinite(square)) return asItIs;
  if (bytes <= ROUTER_SHARE * maxBytes) return asItIs;
  const rms = Math.sqrt(square / values.length);
  const coarser = ROUTER_FINENESS.map((fineness): CodingChoice => {
    const step = rms / fineness;
    const cost = codeCost(values, step);
    const { bytes: coded, squaredError: error, counts } = cost;
    return { bytes: coded, error, how: { coding: "steps", step }, counts, times: 1 };
  });
  return [coarser.find((choice) => choice.bytes <= ROUTER_SHARE * maxBytes) ?? (coarser.at(-1) as CodingChoice)];
}

/** A tensor's change against the base model's; of what the base model does not have, all of it. */
export function difference(values: Float32Array, inBase: Float32Array | undefined): Float32Array {
  return inBase ? values.map((value, at) => value - (inBase[at] as number)) : values;
}
