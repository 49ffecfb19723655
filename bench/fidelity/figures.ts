// Figures and tables of the suite `fidelity`.

import type { SuiteReport } from "../kit/suite.ts";

/** Comparison of token ids with another reader's. */
export interface TokenFigures {
  readonly reader: string;
  readonly documents: number;
  /** Number of documents whose ids differ. */
  readonly different: number;
}

/** Losses of one engine, in nats for each token, by domain. */
export interface DomainLosses {
  readonly name: string;
  readonly losses: readonly number[];
}

type TokenLists = readonly (readonly number[])[];

/** Counts the documents whose ids differ. @throws {RangeError} for lists of different lengths */
export function differentDocuments(own: TokenLists, other: TokenLists): Omit<TokenFigures, "reader"> {
  if (own.length !== other.length) {
    throw new RangeError(`Expected the ids of ${own.length} documents, got those of ${other.length}`);
  }
  const different = own.filter((ids, index) => {
    const theirs = other[index] ?? [];
    return ids.length !== theirs.length || ids.some((id, place) => id !== theirs[place]);
  });
  return { documents: own.length, different: different.length };
}

interface Fidelity {
  readonly domains: readonly string[];
  readonly tokens: readonly TokenFigures[];
  readonly losses: readonly DomainLosses[];
}

/** Makes the tables of token ids and of losses; the last column is the mean of the domains. */
export function fidelityTables({ domains, tokens, losses }: Fidelity): SuiteReport {
  const [reference] = losses;
  return {
    tables: [
      {
        title: "Token ids beside other readers",
        columns: ["reader", "documents", "with other ids"],
        rows: tokens.map(({ reader, documents, different }) => [reader, `${documents}`, `${different}`]),
      },
      {
        title: "Loss, nats for each token, on the same token ids",
        columns: ["engine", ...domains, "mean", `above ${reference?.name ?? "the first"}`],
        rows: losses.map(({ name, losses: own }) => [
          name,
          ...own.map((loss) => loss.toFixed(4)),
          mean(own).toFixed(4),
          (mean(own) - mean(reference?.losses ?? own)).toFixed(4),
        ]),
      },
    ],
    samples: losses.map(({ name, losses: own }) => ({
      variant: name,
      metric: "loss, nats",
      at: "",
      value: mean(own),
      round: 0,
      turn: 0,
    })),
    notes: [],
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
