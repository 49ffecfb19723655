// Arithmetic of float32 as the kernel defines it: every operation rounds its exact result once.

const LANES = 16;

export function add(a: number, b: number): number {
  return Math.fround(a + b);
}

export function subtract(a: number, b: number): number {
  return Math.fround(a - b);
}

export function multiply(a: number, b: number): number {
  return Math.fround(a * b);
}

export function divide(a: number, b: number): number {
  return Math.fround(a / b);
}

/** Rounds `a * b + c` once. */
export function multiplyAdd(a: number, b: number, c: number): number {
  // The product of two float32 is exact in float64; its sum with a third may be off by `error`.
  const product = a * b;
  const sum = product + c;
  const ofC = sum - product;
  const error = product - (sum - ofC) + (c - ofC);
  return Math.fround(error === 0 || !Number.isFinite(sum) ? sum : roundedToOdd(sum, error));
}

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);

/**
 * A sum whose exact value is `sum + error`, cut to float64 with an odd last bit: rounding that to float32 rounds the
 * exact value.
 */
function roundedToOdd(sum: number, error: number): number {
  double[0] = sum;
  const [low = 0, high = 0] = words;
  if (low % 2 === 1) return sum;
  if (sum > 0 === error > 0) words[0] = low + 1;
  else {
    words[0] = low - 1;
    if (low === 0) words[1] = high - 1;
  }
  return double[0];
}

/** Nearest whole number, the even one of two. */
export function roundToEven(x: number): number {
  const below = Math.floor(x);
  const above = x - below;
  if (above === 0.5) return below % 2 === 0 ? below : below + 1;
  return above < 0.5 ? below : below + 1;
}

/** Nearest number in half precision; what is larger than all of them becomes the largest. */
export function roundToHalf(x: number): number {
  const cut = Math.min(65_504, Math.max(-65_504, x));
  let exponent = -14;
  while (2 ** (exponent + 1) <= Math.abs(cut)) exponent++;
  const unit = 2 ** (exponent - 10);
  return roundToEven(cut / unit) * unit;
}

/** Computes `cap * tanh(x / cap)`. @param cap - `undefined` for none */
export function capped(x: number, cap: number | undefined): number {
  if (cap === undefined) return x;
  const power = exponential(divide(add(x, x), cap));
  return subtract(cap, divide(add(cap, cap), add(1, power)));
}

const LOG2_E = Math.fround(1.442_695_04);
// The natural logarithm of 2 in two parts, so that the first one times a small whole number is exact.
const LN_2 = 0.693_359_375;
const LN_2_REST = Math.fround(-2.121_944_4e-4);
const POLYNOMIAL = [
  1.987_569_15e-4, 1.398_199_950_7e-3, 8.333_451_907_3e-3, 4.166_579_589_4e-2, 1.666_666_545_9e-1, 5.000_000_120_1e-1,
].map(Math.fround);

/** `exp(x)` for x cut to [-64, 64]: `2^n * (1 + r + r^2 * polynomial(r))`. */
export function exponential(x: number): number {
  const cut = Math.min(64, Math.max(-64, x));
  const n = roundToEven(multiply(cut, LOG2_E));
  const r = subtract(subtract(cut, multiply(n, LN_2)), multiply(n, LN_2_REST));
  let value = POLYNOMIAL[0] as number;
  for (const coefficient of POLYNOMIAL.slice(1)) value = add(multiply(value, r), coefficient);
  value = add(add(multiply(value, multiply(r, r)), r), 1);
  return multiply(value, 2 ** n);
}

/** Adds value i to lane i modulo 16, then the upper half of the lanes to the lower one, until one is left. */
export function laneSum(values: ArrayLike<number>): number {
  let lanes: number[] = Array.from({ length: LANES }, () => 0);
  for (let i = 0; i < values.length; i++) lanes[i % LANES] = add(lanes[i % LANES] as number, values[i] as number);
  while (lanes.length > 1) {
    const half = lanes.length / 2;
    lanes = lanes.slice(0, half).map((lane, index) => add(lane, lanes[index + half] as number));
  }
  return lanes[0] as number;
}
