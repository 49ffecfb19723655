// Runs steps in a kernel and holds every wanted row against the plain implementation.

import { encodeStep, type KernelPages } from "@readme-moe/kernel";
import { expect } from "vitest";
import { logSumExpError } from "../../../packages/core/src/sampling/logits.ts";
import { exactLogSumExp, plainCandidates, type PlainRow } from "../../oracles/plain-kernel-logits.ts";
import type { SteppingKernel } from "./routed-steps.ts";
import type { TestStep, WantedPosition } from "./random-steps.ts";

/** What a run is held against, and the sizes of its kernel. */
export interface Expected {
  /** By sequence and position. */
  readonly rows: readonly (readonly PlainRow[])[];
  readonly vocabSize: number;
  readonly numLogits: number;
  readonly numExperts: number;
  /** @default 0 */
  readonly numLoras?: number | undefined;
  readonly maxRows: number;
  readonly maxPositions: number;
  /** For messages. */
  readonly build: string;
}

/** Runs one step and checks all that it gives. */
export function checkStep(
  { kernel, pages }: { readonly kernel: SteppingKernel; readonly pages: KernelPages },
  { rows, wanted }: TestStep,
  expected: Expected,
  numCandidates: number,
): void {
  const { numLogits } = expected;
  let place = wanted.length;
  // Rows of all logits come in another order than the rows that they are of.
  const sequences = rows.map((sequence) => ({ ...sequence, fullPlaces: sequence.logitsOf.map(() => --place) }));
  const request = encodeStep(sequences, numCandidates, wanted.length);
  const results = {
    candidateIds: new Int32Array(wanted.length * numCandidates),
    logits: new Float32Array(wanted.length * (numCandidates + 1)),
    sums: new Float64Array(wanted.length * 2),
    fullLogits: new Float32Array(wanted.length * numLogits).fill(NaN),
  };
  kernel.step(pages, request, results);
  for (const [index, at] of wanted.entries()) {
    const full = results.fullLogits.subarray((wanted.length - 1 - index) * numLogits).subarray(0, numLogits);
    const ids = results.candidateIds.subarray(index * numCandidates).subarray(0, numCandidates);
    const logits = results.logits.subarray(index * numCandidates).subarray(0, numCandidates);
    const [largest = NaN, sum = NaN] = results.sums.subarray(2 * index);
    const target = results.logits[wanted.length * numCandidates + index];
    const given = { full, ids, logits, largest, sum, target };
    checkRow(expected.rows[at.sequence]?.[at.position] as PlainRow, given, at, expected.build);
  }
}

interface GivenRow {
  readonly full: Float32Array;
  readonly ids: Int32Array;
  readonly logits: Float32Array;
  readonly largest: number;
  readonly sum: number;
  readonly target: number | undefined;
}

function checkRow(row: PlainRow, given: GivenRow, at: WantedPosition, build: string): void {
  const where = `sequence ${at.sequence}, position ${at.position} (${build})`;
  expect(bits(given.full), `logits of ${where}`).toEqual(bits(row.logits));
  const ids = plainCandidates(row, given.ids.length);
  expect(Array.from(given.ids), `candidates of ${where}`).toEqual(ids);
  expect(bits(given.logits), `logits of candidates of ${where}`).toEqual(
    bits(Float32Array.from(ids, (id) => row.logits[id] as number)),
  );
  expect(given.target, `target of ${where}`).toBe(row.logits[at.target]);
  expect([given.largest, given.sum], `sums of ${where}`).toEqual([row.largest, row.sum]);
  const logSumExp = given.largest + Math.log(given.sum);
  const error = Math.abs(logSumExp - exactLogSumExp(row));
  expect(error, `log-sum-exp of ${where}`).toBeLessThanOrEqual(logSumExpError(logSumExp, row.logits.length));
}

/** Bits in hexadecimal, so that a difference can be read. */
function bits(floats: Float32Array): readonly string[] {
  return Array.from(new Uint32Array(floats.slice().buffer), (word) => word.toString(16));
}
