// Results of `eval` as lines for a reader.

import type { Accuracy, ExpertEvaluation } from "@readme-moe/engine/evaluation";

const NAME_WIDTH = 20;

export function lossRow(name: string, loss: number, tokens?: number): string {
  const columns = [`loss ${loss.toFixed(4)}`, `perplexity ${Math.exp(loss).toFixed(2)}`];
  return row(name, [...columns, ...(tokens === undefined ? [] : [`${tokens} tokens`])]);
}

/** A file's losses by expert; the best one has a star. */
export function expertRows(
  name: string,
  { routed, fixed, bestExpert }: ExpertEvaluation,
  expertNames: readonly string[],
): readonly string[] {
  const routerColumns = routed && [
    `loss ${routed.loss.toFixed(4)}`,
    `${signed(routed.cost)} to the best expert`,
    `keeps the expert ${percent(routed.locality)}`,
  ];
  return [
    `${name}  ${fixed[0]?.tokens ?? 0} tokens`,
    ...(routerColumns ? [row("  router", routerColumns)] : []),
    ...fixed.map(({ loss }, expert) => {
      const share = routed ? [`share ${percent(routed.shares[expert] ?? 0)}`] : [];
      return row(`${expert === bestExpert ? "*" : " "} ${expertNames[expert]}`, [`loss ${loss.toFixed(4)}`, ...share]);
    }),
  ];
}

export function accuracyRow(name: string, accuracy: Accuracy, normalized: Accuracy, numDocuments: number): string {
  const columns = [`acc ${withError(accuracy)}`, `acc_norm ${withError(normalized)}`, `${numDocuments} documents`];
  return row(name, columns);
}

export function signed(nats: number): string {
  return `${nats < 0 ? "-" : "+"}${Math.abs(nats).toFixed(4)}`;
}

export function row(name: string, columns: readonly string[]): string {
  return [name.padEnd(NAME_WIDTH), ...columns].join("  ");
}

function withError({ value, standardError }: Accuracy): string {
  return value.toFixed(4) + (standardError === undefined ? "" : ` ± ${standardError.toFixed(4)}`);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
