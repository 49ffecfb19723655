import type { LossRow } from "./report.ts";

/** Rows that all refactorings try to have, in the order of tables and pictures. */
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
 * A row with its means. Domains whose loss is NaN were not measured and are left out.
 *
 * @param ffnShare - neurons that a token uses, as a share of the dense FFN's
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
