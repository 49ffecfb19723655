// Layers that run alone, with their inner states, against plain loops.

import { describeModel, LayerPiece, type PieceOptions } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { expect, test } from "vitest";
import { plainLayer } from "../oracles/plain-decoder.ts";
import { fixture, fixtureNames } from "../support/fixtures.ts";
import { seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";

const LENGTHS = [19, 1, 12];
const NUM_ROWS = 32;

function randomRows({ config }: Model): Float32Array {
  const random = seededRandom(5);
  return Float32Array.from({ length: NUM_ROWS * config.hiddenSize }, () => 2 * random() - 1);
}

async function runPiece(model: Model, options: Partial<PieceOptions>, rows: Float32Array) {
  const { hiddenSize, intermediateSize } = model.config;
  const sizes = { threads: 2, maxRows: NUM_ROWS, maxPositions: 19, kvPrecision: "fp32" as const };
  const piece = await LayerPiece.open(describeModel(model, "fp32"), model.config, {
    from: 0,
    to: 1,
    ...sizes,
    ...options,
  });
  const states = {
    attended: new Float32Array(NUM_ROWS * hiddenSize),
    update: new Float32Array(NUM_ROWS * hiddenSize),
    gated: new Float32Array(NUM_ROWS * intermediateSize),
  };
  const next = rows.slice();
  piece.run(
    next,
    LENGTHS.map((numTokens) => ({ numTokens })),
    states,
  );
  await piece.close();
  return { ...states, next };
}

test.each(fixtureNames("families"))("has the states of plain loops: %s", async (name) => {
  const model = await openModel(fixture(name));
  const { hiddenSize, numLayers } = model.config;
  const rows = randomRows(model);
  const layer = numLayers - 1;
  const found = await runPiece(model, { from: layer, to: layer + 1 }, rows);
  const expected: Record<string, number[]> = { attended: [], gated: [], next: [] };
  let first = 0;
  for (const length of LENGTHS) {
    const own = Array.from({ length }, (_, i) =>
      Float64Array.from(rows.subarray((first + i) * hiddenSize, (first + i + 1) * hiddenSize)),
    );
    const plain = await plainLayer(model, layer, own);
    expected["attended"]!.push(...plain.attended.flatMap((row) => Array.from(row)));
    expected["gated"]!.push(...plain.neurons.flatMap((row) => Array.from(row)));
    expected["next"]!.push(...plain.next.flatMap((row) => Array.from(row)));
    first += length;
  }
  for (const states of ["attended", "gated", "next"] as const) {
    expect(largestDifference(found[states], expected[states]!), states).toBeLessThan(2e-4);
  }
  if (model.weights.layers[layer]?.ffnOutputNorm) return;
  const { residualScale } = model.config;
  const joined = found.attended.map((value, i) => value + residualScale * found.update[i]!);
  expect(largestDifference(joined, Array.from(found.next))).toBeLessThan(1e-5);
});

test("has the same bits in every build, with any number of threads and layers together", async () => {
  const model = await openModel(fixture("families/llama-tied"));
  const rows = randomRows(model);
  const { numLayers } = model.config;
  const first = await runPiece(model, { kernel: "native" }, rows);
  expect(await runPiece(model, { kernel: "native", threads: 3 }, rows)).toEqual(first);
  expect(await runPiece(model, { kernel: "wasm" }, rows)).toEqual(
    await runPiece(model, { kernel: "wasm", threads: 1 }, rows),
  );
  let { next } = first;
  for (let from = 1; from < numLayers; from++) ({ next } = await runPiece(model, { from, to: from + 1 }, next));
  expect((await runPiece(model, { to: numLayers }, rows)).next).toEqual(next);
});

test("refuses rows that do not fit, and runs on behind them", async () => {
  const model = await openModel(fixture("families/llama-tied"));
  const { config } = model;
  const options = { from: 0, to: 1, threads: 1, maxRows: 4, maxPositions: 4, kvPrecision: "fp32" } as const;
  for (const kernel of ["native", "wasm"] as const) {
    const piece = await LayerPiece.open(describeModel(model, "fp32"), config, { ...options, kernel });
    const rows = randomRows(model).slice(0, 4 * config.hiddenSize);
    const run = (numTokens: number, own: Float32Array, states = {}): void => piece.run(own, [{ numTokens }], states);
    expect(() => run(5, rows)).toThrow(RangeError);
    expect(() => run(3, rows)).toThrow("rows of the stream");
    expect(() => run(4, rows.slice(), { gated: new Float32Array(3) })).toThrow("room for the rows");
    const next = rows.slice();
    run(4, next);
    expect(next).not.toEqual(rows);
    await piece.close();
    expect(() => run(4, next)).toThrow(TypeError);
  }
});
