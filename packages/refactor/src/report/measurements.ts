// Parts of a report that are computed from measurements: rows of losses, overlaps of experts, routed texts.

import { StreamingDecoder, type Tokenizer } from "@readme-moe/model";
import type { LossRow, OverlapReport, RoutedPiece } from "./report.ts";

/** Labels of the rows that a report has where they were measured, in the order of tables and pictures. */
export const LOSS_LABELS = {
  dense: "Dense model",
  paper: "Paper's selection, domain's expert",
  random: "Random neurons, refitted",
  static: "One static expert, refitted",
  oracle_domain: "Domain's expert",
  oracle_token: "Best expert of each token",
  free: "Best expert of each layer and token",
  ours: "Ours: learned router",
} as const;

export type LossId = keyof typeof LOSS_LABELS;

/**
 * Makes a row with its means. Domains whose loss is NaN were not measured and are left out.
 *
 * @param ffnShare - neurons used per token, as a share of the dense FFN's
 * @param losses - by domain, in nats per token
 * @param dense - the dense model's losses by domain
 * @throws {RangeError} when no domain has a loss, or the dense model lacks one of them
 */
export function lossRow(
  id: LossId,
  ffnShare: number,
  losses: Readonly<Record<string, number>>,
  dense: Readonly<Record<string, number>>,
): LossRow {
  const measured = Object.entries(losses).filter(([, loss]) => !Number.isNaN(loss));
  if (measured.length === 0) throw new RangeError(`Expected \`losses\` of ${id} to have a number, got none`);
  let sum = 0;
  let denseSum = 0;
  for (const [domain, loss] of measured) {
    const denseLoss = dense[domain];
    if (denseLoss === undefined || !Number.isFinite(denseLoss)) {
      throw new RangeError(`Expected \`dense\` to have the loss of ${JSON.stringify(domain)}, got \`${denseLoss}\``);
    }
    sum += loss;
    denseSum += denseLoss;
  }
  return {
    id,
    label: LOSS_LABELS[id],
    ffn_share: ffnShare,
    losses: Object.fromEntries(measured),
    mean: sum / measured.length,
    above_dense: (sum - denseSum) / measured.length,
  };
}

/**
 * Computes the share of neurons that experts have in common. Layers without expert neurons count as sharing all.
 *
 * @param layers - by layer, each expert's neurons as rising indices; experts of a layer have equally many
 */
export function expertOverlap(layers: readonly (readonly Int32Array[])[]): OverlapReport {
  const matrices = layers.map((experts) => experts.map((one) => experts.map((other) => shareInCommon(one, other))));
  const first = matrices[0] ?? [];
  const mean = first.map((row, a) =>
    row.map((_, b) => matrices.reduce((sum, matrix) => sum + (matrix[a]?.[b] ?? 0), 0) / matrices.length),
  );
  return { mean, layers: matrices };
}

function shareInCommon(one: Int32Array, other: Int32Array): number {
  if (one.length === 0) return 1;
  let common = 0;
  let place = 0;
  for (const neuron of one) {
    while ((other[place] ?? Infinity) < neuron) place++;
    if (other[place] === neuron) common++;
  }
  return common / one.length;
}

/**
 * Splits a text into its tokens with their experts. A character that takes several tokens belongs to the last of
 * them; an incomplete character at the end becomes U+FFFD of the last token. All pieces together are the decoded
 * text.
 *
 * @param experts - by token
 */
export function routedText(
  tokenizer: Tokenizer,
  tokenIds: ArrayLike<number>,
  experts: ArrayLike<number>,
): readonly RoutedPiece[] {
  const decoder = new StreamingDecoder(tokenizer);
  return Array.from({ length: tokenIds.length }, (_, index) => {
    const text = decoder.push(tokenIds[index] ?? 0);
    const rest = index === tokenIds.length - 1 ? decoder.flush() : "";
    return { text: text + rest, expert: experts[index] ?? 0 };
  });
}
