// How much each column of a product counts: an error in it costs in proportion to its inputs. Changes are
// multiplied by these scales before rounding, so that columns with large inputs are rounded finer.

import type { Model } from "@readme-moe/model";
import { type DomainText, measureInputs } from "../job/prepare-domain.ts";

/** Sums of squares, over tokens, of the inputs of a layer's products. */
export interface InputSquares {
  readonly attention: Float32Array; // [hiddenSize]
  readonly ffn: Float32Array; // [hiddenSize]
  readonly neurons: Float32Array; // [intermediateSize]
}

/** Sizes of the model that scales belong to. */
export interface ScaleSizes {
  readonly numLayers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
}

/** Scales of all layers' products. */
export interface InputScales {
  /**
   * Shaped as `scaleShape` says. A scale is a power of the eighth root of two: a byte holds it, and finer does not
   * matter.
   */
  readonly codes: Uint8Array;
  readonly sizes: ScaleSizes;
}

const STEPS_PER_OCTAVE = 8;
const MIDDLE = 128;
// Columns with next to no input on the text may get more on other text.
const LEAST_SHARE = 1e-4;
// Halfway between equal scales and full proportion. A refit of SmolLM2 in 25 MB loses 0.052 (equal), 0.032
// (halfway) and 0.058 nats (full): the largest inputs are few neurons on few tokens, which would take all the bits.
const POWER = 0.5;
// Where a layer's scales of a product begin, in hidden sizes.
const PLACES: Readonly<Record<string, number>> = { q: 0, k: 0, v: 0, gate: 1, up: 1, down: 2 };
const NAME = /^model\.layers\.(\d+)\.\w+\.([qkv]|gate|up|down)_proj\.weight$/;

/** A layer's scales are those of its first attention products, of its first FFN products, and of its neurons. */
export function scaleShape({ numLayers, hiddenSize, intermediateSize }: ScaleSizes): readonly [number, number] {
  return [numLayers, 2 * hiddenSize + intermediateSize];
}

function codesOf(own: Float32Array): readonly number[] {
  const mean = own.reduce((sum, square) => sum + square, 0) / own.length || 1;
  const shares = Array.from(own, (square) => Math.max(square / mean, LEAST_SHARE) ** POWER);
  const size = shares.reduce((sum, share) => sum + share, 0) / shares.length;
  const codes = shares.map((share) => MIDDLE + Math.round((STEPS_PER_OCTAVE * Math.log2(share / size)) / 2));
  return codes.map((code) => Math.max(0, Math.min(255, code)));
}

/** Makes scales, whose mean of squares is about 1, from the input squares of each layer. */
export function inputScales(squares: readonly InputSquares[], sizes: ScaleSizes): InputScales {
  const codes = squares.flatMap(({ attention, ffn, neurons }) => [attention, ffn, neurons].flatMap(codesOf));
  return { codes: Uint8Array.from(codes), sizes };
}

// Tokens per kind of text. Sums over some thousands of tokens change little with more.
const MEASURED = { calibrationTokens: 2048, sequenceTokens: 256 };

/**
 * Measures scales by running texts through the dense model, whose products have much the same inputs as the experts'.
 */
export async function measureScales(
  base: Model,
  texts: readonly DomainText[],
  onLayer: (done: number) => void,
): Promise<InputScales> {
  const { numLayers } = base.config;
  const statistics = await measureInputs(base, texts, MEASURED);
  const squares: InputSquares[] = [];
  for (let index = 0; index < numLayers; index++) {
    onLayer(index);
    const layer = `layers.${index}`;
    squares.push({
      attention: await statistics.inputSquares(`${layer}.attention.qkv`),
      ffn: await statistics.inputSquares(`${layer}.ffn`),
      neurons: await statistics.inputSquares(`${layer}.ffn.down`),
    });
  }
  return inputScales(squares, base.config);
}

export interface TensorPlace {
  /** `backbone`, `experts/<i>` or `router`. */
  readonly file: string;
  readonly name: string;
  /** The dense neurons of its part, for tensors of an FFN. */
  readonly neurons: Int32Array | undefined;
}

/** @returns a scale for each column; `undefined` for tensors without scales */
export function scalesOf(
  scales: InputScales | undefined,
  { file, name, neurons }: TensorPlace,
): Float32Array | undefined {
  const [, layer, kind = ""] = NAME.exec(name) ?? [];
  const place = PLACES[kind];
  if (!scales || file === "router" || place === undefined) return undefined;
  const { codes, sizes } = scales;
  if (Number(layer) >= sizes.numLayers) return undefined;
  const from = Number(layer) * scaleShape(sizes)[1] + place * sizes.hiddenSize;
  const scaleAt = (column: number): number => 2 ** (((codes[from + column] ?? 0) - MIDDLE) / STEPS_PER_OCTAVE);
  if (kind === "down" && neurons) return Float32Array.from(neurons, scaleAt);
  const length = kind === "down" ? sizes.intermediateSize : sizes.hiddenSize;
  return Float32Array.from({ length }, (_, column) => scaleAt(column));
}

/** Multiplies the columns of `values` `[rows, columns]` by their scales, or divides them. */
export function scaledColumns(
  values: Float32Array,
  scales: Float32Array | undefined,
  direction: "times" | "over",
): Float32Array {
  if (!scales) return values;
  const factors = direction === "times" ? scales : scales.map((scale) => 1 / scale);
  return values.map((value, index) => value * (factors[index % factors.length] ?? 1));
}
