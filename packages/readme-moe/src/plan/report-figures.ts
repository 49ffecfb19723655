import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** What a model folder's report says that a plan can use; absent where it does not. */
export interface ReportFigures {
  /** Share of tokens that keep the expert of the token before. */
  readonly locality?: number | undefined;
  /** Mean loss above the dense model's, nats by token. */
  readonly aboveDense?: number | undefined;
}

/** Nothing where there is no report, or none that can be read: a plan goes without. */
export async function reportFigures(folder: string): Promise<ReportFigures> {
  try {
    const { router, losses, tuning } = JSON.parse(await readFile(join(folder, "report.json"), "utf8")) as {
      readonly router?: { readonly locality?: unknown };
      readonly losses?: readonly { readonly id?: unknown; readonly above_dense?: unknown }[];
      readonly tuning?: { readonly after?: { readonly above_dense?: unknown } };
    };
    // What a tuning wrote is of the model as it is now; the table of losses, of what it was made from.
    const cut = losses?.find(({ id }) => id === "ours")?.above_dense;
    const ours = tuning?.after?.above_dense ?? cut;
    return { locality: shareOr(router?.locality), aboveDense: typeof ours === "number" ? ours : undefined };
  } catch {
    return {};
  }
}

function shareOr(value: unknown): number | undefined {
  return typeof value === "number" && value >= 0 && value <= 1 ? value : undefined;
}
