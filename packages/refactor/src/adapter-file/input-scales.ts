// How much each column of a product counts: an error in it costs as much as what it is multiplied with. Changes are rounded
// times these scales, so that columns which much comes to are rounded finer.

/** What comes to a layer's products: sums of squares over tokens. */
export interface InputSquares {
  readonly attention: Float64Array; // [hiddenSize]
  readonly ffn: Float64Array; // [hiddenSize]
  readonly neurons: Float64Array; // [intermediateSize]
}

/** Sizes of the model that scales are of. */
export interface ScaleSizes {
  readonly numLayers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
}

/** Scales of all layers' products. */
export interface InputScales {
  /** See `scaleShape`; a scale is a power of the eighth root of two, coarse enough for a byte and finer than matters. */
  readonly codes: Uint8Array;
  readonly sizes: ScaleSizes;
}

const STEPS_PER_OCTAVE = 8;
const MIDDLE = 128;
// Columns that next to nothing came to on the text may get more elsewhere.
const LEAST_SHARE = 1e-4;
// Halfway between all alike and in full proportion: of a refit of SmolLM2 in 25 MB, loss over unpacked is 0.052, 0.032 and 0.058
// nats. What is largest are few neurons on few tokens, which would take all the bits.
const POWER = 0.5;
// Where a layer's scales of a product begin, in hidden sizes.
const PLACES: Readonly<Record<string, number>> = { q: 0, k: 0, v: 0, gate: 1, up: 1, down: 2 };
const NAME = /^model\.layers\.(\d+)\.\w+\.([qkv]|gate|up|down)_proj\.weight$/;

/** Of each layer: of attention's first products, of the FFN's first, and of its neurons. */
export function scaleShape({ numLayers, hiddenSize, intermediateSize }: ScaleSizes): readonly [number, number] {
  return [numLayers, 2 * hiddenSize + intermediateSize];
}

/** @param squares - of each layer */
export function inputScales(squares: readonly InputSquares[], sizes: ScaleSizes): InputScales {
  const codes = squares.flatMap(({ attention, ffn, neurons }) => [attention, ffn, neurons].flatMap(codesOf));
  return { codes: Uint8Array.from(codes), sizes };
}

/** Of which the mean of squares is 1. */
function codesOf(squares: Float64Array): readonly number[] {
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length || 1;
  const shares = Array.from(squares, (square) => Math.max(square / mean, LEAST_SHARE) ** POWER);
  const size = shares.reduce((sum, share) => sum + share, 0) / shares.length;
  return shares.map((share) => {
    const code = MIDDLE + Math.round((STEPS_PER_OCTAVE * Math.log2(share / size)) / 2);
    return Math.max(0, Math.min(255, code));
  });
}

/**
 * @param file - of the folder's, without its extension
 * @param name - of any tensor in it
 * @param neurons - of the part that it belongs to, where it is one of an FFN
 * @returns one for each column; `undefined` for tensors that have none
 */
export function scalesOf(
  scales: InputScales | undefined,
  file: string,
  name: string,
  neurons: Int32Array | undefined,
): Float32Array | undefined {
  const [, layer, kind = ""] = NAME.exec(name) ?? [];
  const place = PLACES[kind];
  if (!scales || file === "router" || place === undefined) return undefined;
  const { codes, sizes } = scales;
  if (Number(layer) >= sizes.numLayers) return undefined;
  const from = Number(layer) * scaleShape(sizes)[1] + place * sizes.hiddenSize;
  const scaleAt = (column: number): number => 2 ** (((codes[from + column] as number) - MIDDLE) / STEPS_PER_OCTAVE);
  if (kind === "down" && neurons) return Float32Array.from(neurons, scaleAt);
  const length = kind === "down" ? sizes.intermediateSize : sizes.hiddenSize;
  return Float32Array.from({ length }, (_, column) => scaleAt(column));
}

/** Columns of `values` `[rows, columns]` times their scales, or divided by them. */
export function scaledColumns(
  values: Float32Array,
  scales: Float32Array | undefined,
  direction: "times" | "over",
): Float32Array {
  if (!scales) return values;
  const factors = direction === "times" ? scales : scales.map((scale) => 1 / scale);
  return values.map((value, index) => value * (factors[index % factors.length] as number));
}
