// Lists the ways in which each tensor of a Read-ME model can be stored and what each costs, and chooses among them so
// that all tensors together err least in a number of bytes.

import { encodeFloats, isStoredFloat, readMeTensors, type Model, type SafetensorsInput } from "@readme-moe/model";
import { matrix, type Products } from "../linear-algebra/matrix.ts";
import { ffnLayerOf, floatsOf, pickNeurons, type BaseWeights } from "./base-model.ts";
import { entryRow, payloadName, sizesName, type Coding, type IntegerCoding } from "./delta-file.ts";
import { scaledColumns, scalesOf, type InputScales } from "./input-scales.ts";
import { packIntegers, quantize } from "./integers.ts";
import { lowRank, squares, type LowRank } from "./low-rank.ts";
import type { LayerParts, PartId, PartNeurons } from "./neurons.ts";

/** A tensor of the Read-ME model, which the delta file has to reproduce. */
export interface Target {
  /** `backbone`, `experts/<i>` or `router`. */
  readonly file: string;
  readonly input: SafetensorsInput;
  /** Absent for tensors outside of FFNs. */
  readonly part: PartNeurons | undefined;
}

/** One way to store a tensor. */
export interface Choice {
  /** Bytes in the file, with the entry in its description. */
  readonly bytes: number;
  /** Squared; 0 where nothing is lost. */
  readonly error: number;
}

interface CodingChoice extends Choice {
  readonly how: Coding;
}

/** A target with the ways to store it. */
export interface TensorPlan {
  readonly target: Target;
  /** Sum of squared differences from the base model; 0 where there is nothing to choose. */
  readonly change: number;
  readonly choices: readonly CodingChoice[];
}

export interface PlanContext {
  readonly base: BaseWeights;
  readonly products: Products;
  readonly scales: InputScales | undefined;
}

/** Lists a model's tensors in the order of the folder's files. */
export function targetsOf(model: Model, parts: readonly LayerParts[]): readonly Target[] {
  const { backbone, experts, router } = readMeTensors(model.weights, model.router);
  const targets = (file: string, part: PartId, inputs: readonly SafetensorsInput[]): readonly Target[] =>
    inputs.map((input) => {
      const layer = ffnLayerOf(input.name);
      return { file, input, part: layer === undefined ? undefined : parts[layer]?.get(part) };
    });
  return [
    ...targets("backbone", "shared", backbone),
    ...experts.flatMap((inputs, expert) => targets(`experts/${expert}`, expert, inputs)),
    ...(router ?? []).map((input) => ({ file: "router", input, part: undefined })),
  ];
}

/** Reads a tensor with its neurons in the dense model's order; the layer computes the same in any order. */
export async function readTarget({ input, part }: Target): Promise<Float32Array> {
  const values = await floatsOf(input);
  return part ? pickNeurons(input.name, input.shape, values, part.order) : values;
}

/** Reads the bytes of a tensor of any type, in the order of `readTarget`. */
export async function readTargetBytes(target: Target): Promise<Uint8Array> {
  const { type, bytes } = target.input;
  return isStoredFloat(type) ? encodeFloats(await readTarget(target), type) : bytes();
}

/** Groups tensors by what they do, for figures. */
export function kindOf({ file, input }: Target): string {
  if (file === "router") return "router";
  const [, kind] = /\.(gate|up|down|[qkvo])_proj\./.exec(input.name) ?? [];
  if (kind === undefined) return "others";
  return kind.length === 1 ? "attention" : kind;
}

// Cost of losing a share of all change of a kind. A tuned SmolLM2 was packed in 40 MB, and each kind's tensors
// alone were put into the unpacked model: nats per share of squares were 0.046 (attention), 0.031 (gate), 0.029
// (up), 0.159 (down).
const WORTH: Readonly<Record<string, number>> = { attention: 3, gate: 2, up: 2, down: 10, router: 3 };
const WORTH_OF_OTHERS = 3;

/**
 * Plans all tensors. Errors are squares as shares of all change of the same kind, times the kind's worth: by plain
 * squares all bytes would go to the large changes, and small changes of many more weights would be lost.
 */
export async function planTensors(
  targets: readonly Target[],
  context: PlanContext,
  onTensor: (done: number) => void,
): Promise<readonly TensorPlan[]> {
  const plans: TensorPlan[] = [];
  const changes = new Map<string, number>();
  for (const target of targets) {
    onTensor(plans.length);
    const plan = await planTensor(target, context);
    plans.push(plan);
    changes.set(kindOf(target), (changes.get(kindOf(target)) ?? 0) + plan.change);
  }
  return plans.map((plan) => {
    const kind = kindOf(plan.target);
    const weight = (WORTH[kind] ?? WORTH_OF_OTHERS) / (changes.get(kind) || 1);
    return { ...plan, choices: plan.choices.map((choice) => ({ ...choice, error: choice.error * weight })) };
  });
}

// Smaller tensors, such as norms and biases, are stored as they are: their errors reach every token.
const LEAST_CODED = { weight: 4096, router: 1 << 14 };
// Steps fall by half octaves. Of weights: from a step that keeps only outliers, in root mean squares, to seven bits.
const WEIGHT_STEPS = { coarsest: 2.8, count: 14 };
const ROUTER_STEPS = { coarsest: 2 ** 0.5, count: 10 };

async function planTensor(target: Target, { base, products, scales }: PlanContext): Promise<TensorPlan> {
  const { file, part } = target;
  const { name, type, shape } = target.input;
  const bytes = await readTargetBytes(target);
  const choiceOf = (how: Coding, error: number, size: number): CodingChoice => ({
    bytes: size + headerBytes(target, how),
    error,
    how,
  });
  const whole = choiceOf({ coding: "whole" }, 0, bytes.byteLength);
  const asInBase = (error: number): CodingChoice => choiceOf({ coding: "base" }, error, 0);
  const asItIs = { target, change: 0, choices: [whole] };
  const [rows = 1, columns] = shape;
  if (!isStoredFloat(type)) return asItIs;
  const isRouter = file === "router";
  const neurons = part?.neurons;
  const inBase = isRouter ? undefined : await base.inPlaceOf(name, neurons);
  if (inBase && Buffer.compare(bytes, encodeFloats(inBase, type)) === 0) {
    return { target, change: 0, choices: [asInBase(0)] };
  }
  const own = scalesOf(scales, { file, name, neurons });
  const change = scaledColumns(difference(await readTarget(target), inBase), own, "times");
  const square = squares(change);
  const isLarge = change.length >= (isRouter ? LEAST_CODED.router : LEAST_CODED.weight);
  if (columns === undefined || !isLarge || !(square > 0) || !Number.isFinite(square)) return asItIs;
  const { coarsest, count } = isRouter ? ROUTER_STEPS : WEIGHT_STEPS;
  const rms = Math.sqrt(square / change.length);
  const steps = Array.from({ length: count }, (_, index) => rms * coarsest * 2 ** (-index / 2));
  const rounded = steps.map((step) => {
    const { error, size } = roundingCost(change, step);
    return choiceOf({ coding: "steps", step }, error, size);
  });
  if (isRouter) return { target, change: square, choices: [...rounded, whole] };
  const factors = await lowRank(products, matrix(rows, columns, change), MAX_RANK, WORTHWHILE_SHARE);
  const thin = factors ? steps.flatMap((step) => lowRankChoice(factors, square, step, choiceOf)) : [];
  return { target, change: square, choices: [asInBase(square), ...rounded, ...thin, whole] };
}

// Three times the rank that `tune` uses by default: changes of several tunings add up.
const MAX_RANK = 96;
// With a lower share, the product of factors is hardly ever the cheaper one, and finding the factors takes time.
const WORTHWHILE_SHARE = 0.5;
const SIZE_BYTES = 4;

function lowRankChoice(
  factors: LowRank,
  square: number,
  step: number,
  choiceOf: (how: IntegerCoding, error: number, size: number) => CodingChoice,
): readonly CodingChoice[] {
  const { sizes, left, right } = factors;
  // Directions have to be larger than what rounding does to them.
  const least = 0.7 * step * Math.sqrt(Math.max(left.length, right.length) / sizes.length);
  const rank = sizes.filter((size) => size >= least).length;
  if (rank === 0) return [];
  const { error, size } = roundingCost(scaledFactors(factors, rank), step);
  const missing = Math.max(0, square - squares(sizes.subarray(0, rank)));
  return [choiceOf({ coding: "low-rank", step, rank }, missing + error, size + SIZE_BYTES * rank)];
}

/** Rounds values to multiples of a step, and packs them. */
function roundingCost(values: Float32Array, step: number): { readonly error: number; readonly size: number } {
  const codes = quantize(values, step);
  let error = 0;
  for (let at = 0; at < values.length; at++) error += (values[at]! - codes[at]! * step) ** 2;
  return { error, size: packIntegers(codes).length };
}

// Bytes in the container's header of a payload: its type, shape, place and checksum, without its name, which is
// there twice.
const PAYLOAD_HEADER_BYTES = 86;

/** Computes the bytes that an entry takes in the container's header, where its JSON is within a JSON string. */
function headerBytes({ file, input: { name, type, shape } }: Target, how: Coding): number {
  const row = JSON.stringify(JSON.stringify(entryRow({ name, type, shape, ...how }))).length;
  const names = how.coding === "base" ? [] : [payloadName(file, name)];
  if (how.coding === "low-rank") names.push(sizesName(file, name));
  return names.reduce((sum, own) => sum + 2 * own.length + PAYLOAD_HEADER_BYTES, row);
}

// Prices of a byte between 2^-120 and 2^40 errors, to 40 digits of their logarithm.
const [LEAST_PRICE, MOST_PRICE] = [-120, 40];
const HALVINGS = 48;

/**
 * Picks one choice for each tensor: the one that errs least when a byte costs as much error as a price, which is
 * the lowest price whose picks fit. No other picks of the same size err less.
 *
 * @param choices - by tensor, at least one each
 * @returns the picked choices; `undefined` where even the smallest do not fit
 */
export function allocate<Way extends Choice>(
  choices: readonly (readonly Way[])[],
  maxBytes: number,
): readonly Way[] | undefined {
  const sizeOf = (picks: readonly Way[]): number => picks.reduce((sum, { bytes }) => sum + bytes, 0);
  const pickAt = (price: number): readonly Way[] =>
    choices.map((ways) => ways.reduce((a, b) => (isCheaper(b, a, price) ? b : a)));
  let fitting = pickAt(Infinity);
  if (sizeOf(fitting) > maxBytes) return undefined;
  const best = pickAt(0);
  if (sizeOf(best) <= maxBytes) return best;
  let [low, high] = [LEAST_PRICE, MOST_PRICE];
  for (let round = 0; round < HALVINGS; round++) {
    const middle = (low + high) / 2;
    const picks = pickAt(2 ** middle);
    if (sizeOf(picks) > maxBytes) low = middle;
    else [high, fitting] = [middle, picks];
  }
  return fitting;
}

function isCheaper(one: Choice, other: Choice, price: number): boolean {
  if (price === Infinity) return one.bytes < other.bytes || (one.bytes === other.bytes && one.error < other.error);
  const gain = other.error - one.error - price * (one.bytes - other.bytes);
  return gain > 0 || (gain === 0 && one.bytes < other.bytes);
}

/** Finds the factors that the choices of a change `[rows, columns]` were made with. */
export async function factorsOf(
  products: Products,
  change: Float32Array,
  [rows = 1, columns = 1]: readonly number[],
): Promise<LowRank> {
  return (await lowRank(products, matrix(rows, columns, change), MAX_RANK, 0)) as LowRank;
}

/**
 * The numbers by which a product of factors is coded: both unit vectors of each direction, times its size. Rounded
 * to the same step, they err as much as single numbers do.
 */
export function scaledFactors({ sizes, left, right }: LowRank, rank: number): Float32Array {
  const [rows, columns] = [left.length / sizes.length, right.length / sizes.length];
  const result = new Float32Array(rank * (rows + columns));
  for (const [k, size] of sizes.subarray(0, rank).entries()) {
    const from = k * (rows + columns);
    result.set(
      left.subarray(k * rows, (k + 1) * rows).map((value) => size * value),
      from,
    );
    result.set(
      right.subarray(k * columns, (k + 1) * columns).map((value) => size * value),
      from + rows,
    );
  }
  return result;
}

/** Subtracts the base model's tensor; a tensor that the base model lacks is all change. */
export function difference(values: Float32Array, inBase: Float32Array | undefined): Float32Array {
  return inBase ? values.map((value, at) => value - (inBase[at] ?? 0)) : values;
}
