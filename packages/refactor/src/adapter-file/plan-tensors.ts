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
  /** Squares of all that is different from the base model; 0 where there is nothing to choose. */
  readonly change: number;
  readonly choices: readonly CodingChoice[];
}

type Ways = Omit<TensorPlan, "target">;

// Smaller tensors, such as norms and biases, are stored as they are: their errors reach every token.
const LEAST_CODED = 4096;
// Of the router's table of embeddings, by half octaves: root mean square over the finest step, and how many.
const FINEST_OF_ROUTER = 16;
const NUM_ROUTER_STEPS = 10;
const LEAST_CODED_OF_ROUTER = 1 << 14;

/** @param onTensor - is told how many are done */
export async function planTensors(
  targets: readonly Target[],
  base: BaseWeights,
  products: Products,
  scales: InputScales | undefined,
  onTensor: (done: number) => void,
): Promise<readonly TensorPlan[]> {
  const plans: TensorPlan[] = [];
  for (const target of targets) {
    onTensor(plans.length);
    const ways =
      target.file === "router" ? await waysOfRouter(target) : await waysOfWeight(target, base, products, scales);
    plans.push({ target, ...ways });
  }
  return weighKinds(plans);
}

async function waysOfWeight(
  target: Target,
  base: BaseWeights,
  products: Products,
  scales: InputScales | undefined,
): Promise<Ways> {
  const { name, type, shape } = target.input;
  const bytes = await readTargetBytes(target);
  const asItIs = { change: 0, choices: [whole(bytes.byteLength)] };
  if (!isStoredFloat(type)) return asItIs;
  const inBase = await base.inPlaceOf(name, target.part?.neurons);
  if (inBase && Buffer.compare(bytes, encodeFloats(inBase, type)) === 0) {
    return { change: 0, choices: [asInBase(0)] };
  }
  const own = scalesOf(scales, target.file, name, target.part?.neurons);
  const change = scaledColumns(difference(await readTarget(target), inBase), own, "times");
  const [rows, columns] = shape;
  const square = squareOf(change);
  const isCoded = columns !== undefined && change.length >= LEAST_CODED && square > 0 && Number.isFinite(square);
  if (!isCoded) return asItIs;
  const choices = await codingChoices(products, change, [rows as number, columns], bytes.byteLength);
  return { change: square, choices };
}

async function waysOfRouter(target: Target): Promise<Ways> {
  const { type, shape } = target.input;
  const bytes = (await target.input.bytes()).byteLength;
  const asItIs = { change: 0, choices: [whole(bytes)] };
  if (!isStoredFloat(type) || shape.length !== 2) return asItIs;
  const values = await readTarget(target);
  const square = squareOf(values);
  if (values.length < LEAST_CODED_OF_ROUTER || !(square > 0) || !Number.isFinite(square)) return asItIs;
  const finest = Math.sqrt(square / values.length) / FINEST_OF_ROUTER;
  const coarser = Array.from({ length: NUM_ROUTER_STEPS }, (_, index): CodingChoice => {
    const step = finest * 2 ** (index / 2);
    const { bytes: coded, squaredError: error, counts } = codeCost(values, step);
    return { bytes: coded, error, how: { coding: "steps", step }, counts, times: 1 };
  });
  return { change: square, choices: [...coarser, whole(bytes)] };
}

/** A tensor's change against the base model's; of what the base model does not have, all of it. */
export function difference(values: Float32Array, inBase: Float32Array | undefined): Float32Array {
  return inBase ? values.map((value, at) => value - (inBase[at] as number)) : values;
}
