// Statistics of a mixture's experts, many of which few tokens of a calibration choose.

import type { InputStatistics } from "@readme-moe/model";

const OF_EXPERT = /^(?<ffn>layers\.\d+\.ffn)\.(?<expert>\d+)(?<down>\.down)?$/;

/** Weight of what is assumed before an expert's tokens are seen, as a share of all tokens: 8 of 256. */
const PRIOR = 1 / 32;

/**
 * Completes the statistics of experts by what holds for all. Of 256 tokens, one of 128 experts sees 16 on average and
 * often none; channels that are small in a few rows by chance would then be rounded badly in all others.
 *
 * - The inputs of gate and up are the layer's: a share of all tokens' squares is added to those of the expert's.
 * - The neurons of an expert have nothing in common with those of others: their squares are evened out, the more the
 *   fewer tokens the expert has. Tokens are estimated by the inputs, whose norms are about equal.
 */
export function withFewTokens(calibration: InputStatistics): InputStatistics {
  return {
    inputSquares: async (product) => {
      const own = await calibration.inputSquares(product);
      const { ffn, expert, down } = OF_EXPERT.exec(product)?.groups ?? {};
      if (ffn === undefined) return own;
      const ofAll = await calibration.inputSquares(ffn);
      if (down === undefined) return own.map((square, i) => square + PRIOR * ofAll[i]!);
      const tokenShare = sumOf(await calibration.inputSquares(`${ffn}.${expert}`)) / sumOf(ofAll);
      if (!(tokenShare > 0)) return own;
      const even = (sumOf(own) / own.length) * (PRIOR / tokenShare);
      return own.map((square) => square + even);
    },
  };
}

function sumOf(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}
