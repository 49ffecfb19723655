// Rounding that counts what comes of it, against plain rounding, and against GPTQ's own recipe.

import { describe, expect, test } from "vitest";
import { quantize } from "../../packages/refactor/src/adapter-file/coded-values.ts";
import { errorFactor, roundTogether } from "../../packages/refactor/src/adapter-file/rounding.ts";
import { plainSolve } from "../oracles/plain-solve.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

const NEURONS = 24;
const ROWS = 40;
const STEP = 0.8;
const RIDGE = 0.1;
const random = seededRandom(3);
const normal = () => randomNormal(random);

/** Activations of which each is much like the one before it. */
const activations = Array.from({ length: 300 }, () => {
  const row = [normal()];
  while (row.length < NEURONS) row.push(0.9 * row.at(-1)! + 0.5 * normal());
  return row;
});
const whole = Array.from({ length: NEURONS }, (_, i) =>
  Array.from({ length: NEURONS }, (_unused, j) => activations.reduce((sum, row) => sum + row[i]! * row[j]!, 0)),
);
const gram = Float32Array.from(whole.flatMap((row, i) => row.slice(i)));
const neurons = Int32Array.from({ length: NEURONS / 2 }, (_, i) => 2 * i);
const size = neurons.length;
const scales = Float32Array.from(neurons, (_, i) => 2 ** ((i % 5) / 4));
const values = Float32Array.from({ length: ROWS * size }, normal);
const factor = errorFactor(gram, NEURONS, neurons, scales)!;

/** The squared error of what a part puts out, over all activations. */
function outputError(codes: Int16Array): number {
  let sum = 0;
  for (const row of activations) {
    for (let i = 0; i < ROWS; i++) {
      let error = 0;
      for (let j = 0; j < size; j++) {
        error += ((values[i * size + j]! - codes[i * size + j]! * STEP) / scales[j]!) * row[neurons[j]!]!;
      }
      sum += error ** 2;
    }
  }
  return sum;
}

/**
 * By elimination, as GPTQ's paper has it (arXiv 2210.17323, equations 2 and 3): every rounded weight's error is taken over by
 * all that are left, by the inverse of what is left of the ridged Gram matrix.
 */
function gptq(): Int16Array {
  const ridge = neurons.reduce((sum, neuron) => sum + whole[neuron]![neuron]!, 0) * (RIDGE / size);
  const left = Array.from(neurons, (a, i) =>
    Array.from(neurons, (b, j) => (whole[a]![b]! + (i === j ? ridge : 0)) / (scales[i]! * scales[j]!)),
  );
  const rows = Array.from({ length: ROWS }, (_, i) => Array.from(values.subarray(i * size, (i + 1) * size)));
  const codes = new Int16Array(values.length);
  for (let column = 0; column < size; column++) {
    const rest = left.slice(column).map((row) => row.slice(column));
    const identity = rest.map((_, i) => rest.map((_unused, j) => (i === j ? 1 : 0)));
    const [first] = plainSolve(rest, identity);
    for (const [i, row] of rows.entries()) {
      const [code] = quantize(Float32Array.of(row[column]!), STEP);
      codes[i * size + column] = code!;
      const error = (row[column]! - code! * STEP) / first![0]!;
      for (let k = column; k < size; k++) row[k]! -= error * first![k - column]!;
    }
  }
  return codes;
}

describe("rounding together", () => {
  test("is what GPTQ comes to by eliminating one weight after the other", () => {
    expect(roundTogether(values, STEP, factor)).toEqual(gptq());
  });

  test("puts out less error than rounding each value for itself", () => {
    const [plain, together] = [quantize(values, STEP), roundTogether(values, STEP, factor)];
    expect(outputError(together)).toBeLessThan(0.7 * outputError(plain));
  });

  test("is plain where neurons have nothing to do with each other, and where nothing is known", () => {
    const apart = Float32Array.from(whole.flatMap((row, i) => row.slice(i).map((value, j) => (j === 0 ? value : 0))));
    const own = errorFactor(apart, NEURONS, neurons, scales)!;
    expect(roundTogether(values, STEP, own)).toEqual(quantize(values, STEP));
    expect(roundTogether(values, STEP, undefined)).toEqual(quantize(values, STEP));
  });

  test("has nothing to go by where no neuron was ever active", () => {
    expect(errorFactor(new Float32Array(gram.length), NEURONS, neurons, scales)).toBeUndefined();
  });
});
