// Rotary position embedding: the angle of each pair of dimensions at each position.

/** Base frequencies, and how they are stretched for a longer context. */
export type RopeConfig =
  | { readonly type: "default"; readonly theta: number }
  | { readonly type: "linear"; readonly theta: number; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly theta: number;
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalContextTokens: number;
    }
  | {
      readonly type: "longrope";
      readonly theta: number;
      /** Divisors of the frequencies, `[rotatedSize / 2]`, for contexts of up to `originalContextTokens`. */
      readonly shortFactors: readonly number[];
      /** Divisors for longer contexts. */
      readonly longFactors: readonly number[];
      readonly originalContextTokens: number;
      /** Factor of cosines and sines. */
      readonly attentionFactor: number;
      /** Whether `longFactors` count. */
      readonly isLong: boolean;
    }
  /** GGUF files of Llama 3 have the divisor of each frequency, `[rotatedSize / 2]`, instead of the parameters. */
  | { readonly type: "factors"; readonly theta: number; readonly factors: readonly number[] };

/** Cosines and sines, each `[to - from, rotatedSize / 2]`. */
export interface RopeTables {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/**
 * Computes the tables of positions `[from, to)`. Frequencies and angles are rounded to float32 where PyTorch
 * rounds them, so that far positions have the angles that the model was trained with.
 */
export function ropeTables(rope: RopeConfig, rotatedSize: number, from: number, to: number): RopeTables {
  const frequencies = ropeFrequencies(rope, rotatedSize);
  const scale = ropeScale(rope);
  const half = frequencies.length;
  const cos = new Float32Array((to - from) * half);
  const sin = new Float32Array((to - from) * half);
  for (let position = from; position < to; position++) {
    const start = (position - from) * half;
    for (const [pair, frequency] of frequencies.entries()) {
      const angle = Math.fround(position * frequency);
      cos[start + pair] = scale * Math.cos(angle);
      sin[start + pair] = scale * Math.sin(angle);
    }
  }
  return { cos, sin };
}

/** Finds the factor of cosines and sines. */
export function ropeScale(rope: RopeConfig): number {
  return rope.type === "longrope" ? rope.attentionFactor : 1;
}

/** Computes the radians per position of each pair, `[rotatedSize / 2]`. */
export function ropeFrequencies(rope: RopeConfig, rotatedSize: number): Float32Array {
  const waves = Float32Array.from(
    { length: rotatedSize / 2 },
    (_, pair) => rope.theta ** Math.fround((2 * pair) / rotatedSize),
  );
  const frequencies = waves.map((wave) => 1 / wave);
  switch (rope.type) {
    case "default":
      return frequencies;
    case "linear":
      return frequencies.map((frequency) => frequency / rope.factor);
    case "factors":
      return frequencies.map((frequency, pair) => frequency / (rope.factors[pair] ?? 1));
    case "longrope":
      return stretched(waves, rope.isLong ? rope.longFactors : rope.shortFactors);
    case "llama3":
      return frequencies.map((frequency) => stretchLlama3(frequency, rope));
    default:
      throw new TypeError(`Unknown RoPE type: ${String(rope satisfies never)}`);
  }
}

function stretched(waves: Float32Array, factors: readonly number[]): Float32Array {
  return waves.map((wave, pair) => wave * Math.fround(factors[pair] ?? 1)).map((wave) => 1 / wave);
}

/** Stretches long waves by `factor`, keeps short ones, and mixes those between (Llama 3.1). */
function stretchLlama3(frequency: number, rope: RopeConfig & { type: "llama3" }): number {
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength > rope.originalContextTokens / rope.lowFreqFactor) return frequency / rope.factor;
  if (wavelength < rope.originalContextTokens / rope.highFreqFactor) return frequency;
  const smooth =
    (rope.originalContextTokens / wavelength - rope.lowFreqFactor) / (rope.highFreqFactor - rope.lowFreqFactor);
  return ((1 - smooth) * frequency) / rope.factor + smooth * frequency;
}
