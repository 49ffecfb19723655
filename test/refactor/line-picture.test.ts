// Curves in panels, with one legend, on linear and on logarithmic axes.

import { linePicture, type LinePicture } from "@readme-moe/refactor";
import { expect, test } from "vitest";
import { elementsOf, marksOf, parseSvg, textsOf } from "../support/svg.ts";

async function dotsOf(isLogarithmic: LinePicture["isLogarithmic"]): Promise<readonly (readonly [number, number])[]> {
  const points = [1, 4, 16, 64].map((x) => [x, 0.01 * x ** 1.5] as const);
  const curves = [{ name: "c", colour: "#123456", points }];
  const picture = {
    title: "t",
    description: "d",
    xTitle: "x",
    isLogarithmic,
    rows: [{ panels: [{ title: "y", curves }] }],
  };
  const dots = marksOf(parseSvg(await linePicture(picture)), "symbol");
  expect(dots).toHaveLength(points.length);
  return dots.map(({ x, y }) => [x, y] as const);
}

function stepsOf(values: readonly number[]): readonly number[] {
  return values.slice(1).map((value, index) => value - (values[index] ?? 0));
}

test("draws a power law as a straight line on logarithmic axes", async () => {
  const dots = await dotsOf("both");
  for (const axis of [0, 1] as const) {
    const [first = 0, ...others] = stepsOf(dots.map((dot) => dot[axis]));
    expect(Math.abs(first)).toBeGreaterThan(10);
    for (const step of others) expect(step).toBeCloseTo(first, 0);
  }
});

test("begins the other axis at zero when one axis is logarithmic", async () => {
  const dots = await dotsOf("x");
  const [first = 0, second = 0] = stepsOf(dots.map(([x]) => x));
  expect(second).toBeCloseTo(first, 0);
  const rises = stepsOf(dots.map(([, y]) => -y));
  expect(rises[1]).toBeGreaterThan(3 * (rises[0] ?? 0));
});

test("shortens numbers on axes: millions have a letter, small numbers their decimals", async () => {
  const points = [
    [16_252_928, 0.02],
    [3_212_749_824, 2],
  ] as const;
  const curves = [{ name: "c", colour: "#123456", points }];
  const rows = [{ panels: [{ title: "y", curves }] }];
  const svg = await linePicture({ title: "t", description: "d", xTitle: "x", isLogarithmic: "both", rows });
  const shown = textsOf(parseSvg(svg)).map(({ text }) => text);
  expect(shown).toEqual(expect.arrayContaining(["16.3M", "3,210M", "0.01", "0.1", "1"]));
});

test("names each curve once, and draws bounds dashed and without points", async () => {
  const points = [
    [1, 2],
    [2, 3],
  ] as const;
  const measured = { name: "lru", colour: "#d55e00", points };
  const bound = { name: "bound", colour: "#000000", points, isBound: true };
  const panels = [
    { title: "hits", curves: [measured, bound] },
    { title: "latency", curves: [measured] },
  ];
  const picture = { title: "Caches", description: "By size.", xTitle: "experts" };
  const document = parseSvg(await linePicture({ ...picture, rows: [{ title: "fcfs", panels }] }));
  const shown = textsOf(document).map(({ text }) => text);
  for (const once of ["Caches", "By size.", "fcfs", "hits", "latency", "lru", "bound"]) {
    expect(shown.filter((text) => text === once)).toHaveLength(1);
  }
  expect(shown.filter((text) => text === "experts")).toHaveLength(2);
  expect(marksOf(document, "symbol").map(({ fill }) => fill)).toEqual(Array.from({ length: 4 }, () => "#d55e00"));
  expect(marksOf(document, "line").map(({ stroke }) => stroke)).toEqual(["#000000", "#d55e00", "#d55e00"]);
  const dashed = elementsOf(document, "path").filter((path) => path.getAttribute("stroke-dasharray") === "5,4");
  expect(dashed).toHaveLength(2); // in its panel and in the legend
});

test("refuses numbers that are not finite", async () => {
  const panels = [{ title: "y", curves: [{ name: "c", colour: "#123456", points: [[1, NaN] as const] }] }];
  await expect(async () =>
    linePicture({ title: "t", description: "d", xTitle: "x", rows: [{ panels }] }),
  ).rejects.toThrow(new RangeError("Expected a picture's number to be finite, got `NaN`"));
});
