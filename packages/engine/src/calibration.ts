// Calibration: tokens on which the kernel measures the inputs of a model's products, so that weights are rounded well.

import { createHash } from "node:crypto";
import { calibrateModel, type CalibrateOptions, type CalibrationTokens } from "@readme-moe/kernel";
import type { InputStatistics, Model, Precision } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { CALIBRATION_TEXTS } from "./calibration-texts.ts";

export interface Calibration {
  /** Computed on first use, so not if the packed file is in the cache. */
  readonly statistics: InputStatistics;
  /** Changes whenever anything changes that packed weights depend on, besides the model. */
  readonly fingerprint: string;
}

export interface CalibrationOptions extends CalibrateOptions {
  readonly cacheFolder?: string | undefined;
}

type TokenLists = readonly (readonly number[])[];

const NUM_SCATTERED = 4;
const SCATTERED_TOKENS = 64;
const TEXT_TOKENS = 256;
// Changes when the same tokens give other statistics.
const VERSION = 2;

/** Chooses the tokens to measure with. @returns `undefined` for precisions that round no weights */
export async function calibrationOf(
  model: Model,
  precision: Precision,
  options: CalibrationOptions,
): Promise<Calibration | undefined> {
  if (precision === "fp32" || precision === "file") return undefined;
  const isText = precision === "int4";
  const tokens = isText ? await textTokens(model) : scatteredTokens(model);
  const sequences = async () => (isText ? routed(model, tokens, options) : inTurn(tokens, model.experts.names.length));
  const fingerprint = createHash("sha256")
    .update(`${VERSION} ${JSON.stringify(tokens)}`)
    .digest("hex")
    .slice(0, 16);
  return { statistics: calibrateModel(model, sequences, options), fingerprint };
}

/**
 * Takes tokens from the whole vocabulary. They show large channels as well as text does, which is enough for 8 bits.
 */
function scatteredTokens({ config: { vocabSize, contextTokens } }: Model): TokenLists {
  const length = Math.min(SCATTERED_TOKENS, contextTokens);
  return inPieces(meaninglessTokens(NUM_SCATTERED * length, vocabSize), length);
}

/** Takes tokens of typical text; for a model without a tokenizer, tokens of the whole vocabulary. */
async function textTokens(model: Model): Promise<TokenLists> {
  const { vocabSize, contextTokens } = model.config;
  const text = await model.loadText().catch(() => undefined);
  const ids = text
    ? CALIBRATION_TEXTS.flatMap((document) => Array.from(text.tokenizer.encode(document)))
    : meaninglessTokens(TEXT_TOKENS, vocabSize);
  return inPieces(ids, Math.min(TEXT_TOKENS, contextTokens));
}

function inPieces(ids: readonly number[], length: number): TokenLists {
  const count = Math.ceil(ids.length / length);
  return Array.from({ length: count }, (_, index) => ids.slice(index * length, (index + 1) * length));
}

/** Lists tokens from the whole vocabulary, in an order without meaning. */
function meaninglessTokens(count: number, vocabSize: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => (index * 7919) % vocabSize);
}

/** Adds the experts that the model's router chooses; without a router, all experts in turn. */
async function routed(
  model: Model,
  sequences: TokenLists,
  { threads, cacheFolder, kernel }: CalibrationOptions,
): Promise<readonly CalibrationTokens[]> {
  const numExperts = model.experts.names.length;
  if (numExperts === 1 || !model.router) return inTurn(sequences, numExperts);
  const router = await openRouter(model, "router", { threads, cacheFolder, kernel });
  try {
    const withExperts: CalibrationTokens[] = [];
    for (const tokenIds of sequences) {
      const [route] = await router.route([{ state: router.start(), tokenIds }]);
      withExperts.push({ tokenIds, experts: route?.experts ?? [] });
    }
    return withExperts;
  } finally {
    await router.dispose();
  }
}

/** Adds experts so that each token has a different expert from the one before. */
function inTurn(sequences: TokenLists, numExperts: number): readonly CalibrationTokens[] {
  return sequences.map((tokenIds) => ({ tokenIds, experts: tokenIds.map((_, index) => index % numExperts) }));
}
