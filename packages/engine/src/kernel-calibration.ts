// Statistics that weights are rounded by. The kernel measures them when weights are packed.

import { calibrateModel, type CalibrateOptions } from "@readme-moe/kernel";
import type { InputStatistics, Model, Precision } from "@readme-moe/model";
import { calibrationTokens, fingerprintOf, inTurn, meaninglessTokens, routed } from "./calibration-sequences.ts";

export interface KernelCalibration {
  /** Computed when they are asked for: not where the packed file is in the cache. */
  readonly statistics: InputStatistics;
  /** A name that changes when anything does that packed weights depend on, besides the model. */
  readonly fingerprint: string;
}

export interface KernelCalibrationOptions extends CalibrateOptions {
  readonly cacheFolder?: string | undefined;
}

const NUM_SEQUENCES = 4;
const SEQUENCE_TOKENS = 64;
// Changes when other numbers come out of the same tokens.
const VERSION = 1;

/** Chooses tokens to measure with. @returns `undefined` for float32, which rounds nothing */
export async function kernelCalibration(
  model: Model,
  precision: Precision,
  options: KernelCalibrationOptions,
): Promise<KernelCalibration | undefined> {
  if (precision === "fp32") return undefined;
  const isText = precision === "int4";
  const tokens = isText ? await calibrationTokens(model) : scatteredTokens(model);
  const sequences = async () => (isText ? routed(model, tokens, options) : inTurn(tokens, model.experts.names.length));
  return { statistics: calibrateModel(model, sequences, options), fingerprint: fingerprintOf(VERSION, tokens) };
}

/** Takes tokens from all over the vocabulary: they show large channels as well as text does, which is all that 8 bits need. */
function scatteredTokens({ config: { vocabSize, contextTokens } }: Model): readonly (readonly number[])[] {
  const length = Math.min(SEQUENCE_TOKENS, contextTokens);
  const tokens = meaninglessTokens(NUM_SEQUENCES * length, vocabSize);
  return Array.from({ length: NUM_SEQUENCES }, (_, index) => tokens.slice(index * length, (index + 1) * length));
}
