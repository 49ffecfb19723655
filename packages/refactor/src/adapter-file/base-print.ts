// How a dense model is recognised: by a hash of its numbers, whatever file they came in, and by some of them, which another
// precision of the same weights comes near to and another model does not.

import { createHash } from "node:crypto";
import type { BaseWeights } from "./base-weights.ts";

const SAMPLES = 32;
// Four bits are off by a tenth, two bits by a third; weights that have nothing to do with each other by 1.4.
const MAX_RELATIVE_DIFFERENCE = 0.5;

export interface BasePrint {
  /** Hex, over all tensors as float32 under their names. */
  readonly sha256: string;
  /** Of each tensor, evenly spaced; zeros where it has fewer. `[tensors, SAMPLES]` */
  readonly samples: Float32Array;
}

/** Reads all of the model. */
export async function basePrint(base: BaseWeights): Promise<BasePrint> {
  const hash = createHash("sha256");
  const samples = new Float32Array(base.tensors.length * SAMPLES);
  for (const [index, { name, shape }] of base.tensors.entries()) {
    const values = (await base.read(name)) as Float32Array;
    hash.update(`${JSON.stringify([name, shape])}\n`);
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    const count = Math.min(SAMPLES, values.length);
    for (let i = 0; i < count; i++) {
      samples[index * SAMPLES + i] = values[Math.floor(((i + 0.5) * values.length) / count)] as number;
    }
  }
  return { sha256: hash.digest("hex"), samples };
}

/** What another dense model is to the one that an adapter file was made for. */
export type BaseMatch =
  | { readonly kind: "same" }
  /** The same weights in another precision. */
  | { readonly kind: "near"; readonly relativeDifference: number; readonly numDifferent: number }
  | { readonly kind: "other"; readonly relativeDifference: number };

/** @returns `other` also for a model of other tensors */
export function compareBases(made: BasePrint, found: BasePrint): BaseMatch {
  if (made.sha256 === found.sha256) return { kind: "same" };
  if (made.samples.length !== found.samples.length) return { kind: "other", relativeDifference: Infinity };
  const differences: number[] = [];
  for (let from = 0; from < made.samples.length; from += SAMPLES) {
    let [square, difference] = [0, 0];
    for (let i = from; i < from + SAMPLES; i++) {
      square += (made.samples[i] as number) ** 2;
      difference += ((found.samples[i] as number) - (made.samples[i] as number)) ** 2;
    }
    differences.push(difference === 0 ? 0 : difference / square);
  }
  const relativeDifference = Math.sqrt(differences.reduce((sum, one) => sum + one, 0) / differences.length);
  // Not `>`: what is no number is no match.
  if (!(relativeDifference <= MAX_RELATIVE_DIFFERENCE)) return { kind: "other", relativeDifference };
  return { kind: "near", relativeDifference, numDifferent: differences.filter((one) => one > 0).length };
}
