// Curves on logarithmic axes.

import { linePicture, type LinePicture } from "@readme-moe/refactor";
import { expect, test } from "vitest";

function dotsOf(isLogarithmic: LinePicture["isLogarithmic"]): readonly (readonly [number, number])[] {
  const points = [1, 4, 16, 64].map((x) => [x, 0.01 * x ** 1.5] as const);
  const curves = [{ name: "c", colour: "#123456", points }];
  const picture = {
    title: "t",
    description: "d",
    xTitle: "x",
    isLogarithmic,
    rows: [{ panels: [{ title: "y", curves }] }],
  };
  const dots = Array.from(linePicture(picture).matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g));
  // The first dot is the legend's.
  return dots.slice(-points.length).map(([, x, y]) => [Number(x), Number(y)] as const);
}

function stepsOf(values: readonly number[]): readonly number[] {
  return values.slice(1).map((value, index) => value - (values[index] ?? 0));
}

test("draws a power law as a straight line on logarithmic axes", () => {
  const dots = dotsOf("both");
  for (const axis of [0, 1] as const) {
    const [first = 0, ...others] = stepsOf(dots.map((dot) => dot[axis]));
    expect(Math.abs(first)).toBeGreaterThan(10);
    for (const step of others) expect(step).toBeCloseTo(first, 0);
  }
});

test("begins the other axis at zero when one axis is logarithmic", () => {
  const dots = dotsOf("x");
  const [first = 0, second = 0] = stepsOf(dots.map(([x]) => x));
  expect(second).toBeCloseTo(first, 0);
  const rises = stepsOf(dots.map(([, y]) => -y));
  expect(rises[1]).toBeGreaterThan(3 * (rises[0] ?? 0));
});

test("shortens numbers on axes: millions have a letter, small numbers their decimals", () => {
  const points = [
    [16_252_928, 0.02],
    [3_212_749_824, 2],
  ] as const;
  const curves = [{ name: "c", colour: "#123456", points }];
  const rows = [{ panels: [{ title: "y", curves }] }];
  const svg = linePicture({ title: "t", description: "d", xTitle: "x", isLogarithmic: "both", rows });
  for (const number of ["16.3M", "3,210M", "0.01", "0.1", "1"]) expect(svg).toContain(`>${number}<`);
});
