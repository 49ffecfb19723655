// Models, routes and machines of simulated fleets.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEFAULT_COST_MODEL, type CostModel } from "@readme-moe/core";
import { keepOf, mainShares } from "@readme-moe/refactor/simulation";
import { LOCALITY } from "../paper/paper-numbers.ts";

/** Costs of a model's steps, and deadlines of its answers. */
export interface ModelProfile {
  readonly cost: CostModel;
  /** Bytes of one expert in int8. */
  readonly expertBytes: number;
  /** Longest time to the first token, and mean time of a later one. */
  readonly firstTokenMs: number;
  readonly perTokenMs: number;
}

/**
 * Half-width experts in int8 on two cores of an AMD EPYC (Zen 5), read at 1 GB/s. `135m` was measured. `1b` fits the
 * steps of 1, 4 and 16 sequences with 1 to 7 experts in docs/benchmark.md, which have random weights.
 */
export const MODELS = {
  "135m": { cost: DEFAULT_COST_MODEL, expertBytes: 40e6, firstTokenMs: 1000, perTokenMs: 60 },
  "1b": {
    cost: { fixedMs: 3.7, msPerToken: 1.3, msPerExpert: 8.9, msPerCachedToken: 0.0011, loadMsPerByte: 1e-6 },
    expertBytes: 381e6,
    firstTokenMs: 3000,
    perTokenMs: 200,
  },
} as const satisfies Readonly<Record<string, ModelProfile>>;

/** Routes of prompts: shares of experts in each domain, and how often a token keeps the expert without a draw. */
export interface RouteProfile {
  readonly shares: readonly (readonly number[])[];
  readonly keep: number;
}

// The paper has no shares by domain; this one leaves two fifths of a domain's tokens to the other six experts.
const PAPER_MAIN_SHARE = 0.6;

/** Routes of the tuned experts of `models/smollm2-135m`, as its report has them. */
function ownRoutes(): RouteProfile {
  const path = join(import.meta.dirname, "..", "..", "models", "smollm2-135m", "report.json");
  const { router } = JSON.parse(readFileSync(path, "utf8")) as {
    readonly router: { readonly locality: number; readonly domain_shares: readonly (readonly number[])[] };
  };
  return { shares: router.domain_shares, keep: keepOf(router.domain_shares, router.locality) };
}

/** Makes routes with one main expert in each domain. */
export function mainRoutes(numExperts: number, mainShare: number, locality: number): RouteProfile {
  const shares = mainShares(numExperts, mainShare);
  return { shares, keep: keepOf(shares, locality) };
}

export const ROUTES = {
  ours: ownRoutes(),
  paper: mainRoutes(7, PAPER_MAIN_SHARE, LOCALITY.readMe),
} as const;
