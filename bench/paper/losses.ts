// Compares a dense model of one expert's size with the mixture (table 5), from the refactoring's report.

import type { LossRow, Report } from "@readme-moe/refactor";
import type { ReportTable } from "../kit/suite.ts";
import { PERPLEXITIES } from "./paper-numbers.ts";

export function equalSizeTable({ losses }: Pick<Report, "losses">): ReportTable {
  const row = (id: string): LossRow | undefined => losses.find((one) => one.id === id);
  const [fixed, ours] = [row("static"), row("ours")];
  const domains = Object.keys(ours?.losses ?? {});
  return {
    title: "Table 5: perplexity of a dense model of one expert's size, and of the mixture",
    columns: ["domain", "dense, paper", "Read-ME, paper", "less, nats", "one static expert", "ours", "less, nats"],
    rows: domains.map((domain) => {
      const paper = PERPLEXITIES[domain];
      const own = fixed?.losses[domain] === undefined ? NaN : fixed.losses[domain] - (ours?.losses[domain] ?? NaN);
      return [
        domain,
        paper?.dense.toFixed(2) ?? "–",
        paper?.readMe.toFixed(2) ?? "–",
        paper ? Math.log(paper.dense / paper.readMe).toFixed(3) : "–",
        perplexity(fixed, domain),
        perplexity(ours, domain),
        Number.isNaN(own) ? "–" : own.toFixed(3),
      ];
    }),
    notes: [
      ...(fixed ? [] : ["The model was refactored without baselines, so the static expert was not measured."]),
      "Why they differ: the paper tunes both for a billion tokens; ours are fitted in closed form on some ten thousand tokens of each kind, and the static expert, fitted to all of them, is stronger than one expert of the mixture. Perplexities of other models and texts are comparable by their differences only.",
    ],
  };
}

function perplexity(one: LossRow | undefined, domain: string): string {
  return one?.losses[domain] === undefined ? "–" : Math.exp(one.losses[domain]).toFixed(2);
}
