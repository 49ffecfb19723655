// Jobs of a simulated fleet: when they arrive, which experts they need, and by when they should be served.

import { type AffinityKey, expertKey, type OptionsOf, type ResolvedOf } from "@readme-moe/core";
import { checkedOptions, type LabTable } from "../option-table.ts";
import { drawIndex } from "../random.ts";
import { drawsOf, geometric } from "./generate-trace.ts";

/** A job of a simulated fleet. */
export interface FleetJob {
  readonly id: string;
  /** Number of the job, in order of arrival. */
  readonly number: number;
  readonly arrivalMs: number;
  readonly promptTokens: number;
  /** Expert of each token that runs, `[promptTokens + outputTokens - 1]`. */
  readonly experts: readonly number[];
  /** Shares of experts in the prompt, `[numExperts]`. */
  readonly expertShares: readonly number[];
  /** Key of the prompt's main expert. */
  readonly key: AffinityKey;
  readonly priority: number;
  /** Time by which the first token should be there. */
  readonly deadlineMs: number;
}

const LOAD_OPTIONS = {
  /**
   * Share of each expert in the tokens of each domain, `[numDomains][numExperts]`; shares of a domain add up to 1. See
   * `mainShares`.
   */
  shares: { kind: "shares", isRequired: true },
  /** Share of tokens that keep the expert of the token before without a draw, from 0 to 1. @default 0.5 */
  keep: { kind: "number", max: 1, default: 0.5 },
  /** Number of jobs. */
  numJobs: { kind: "integer", min: 1, isRequired: true },
  /** Mean number of jobs that arrive per second (a Poisson process), above 0. */
  jobsPerS: { kind: "number", above: 0, isRequired: true },
  /** Seed in [0, 2^53). @default 0 */
  seed: { kind: "integer", default: 0 },
  /** Exponent of Zipf's law for the shares of domains, from 0 (equal) to 8. @default 1 */
  skew: { kind: "number", max: 8, default: 1 },
  /** Time after which the next domain becomes the most frequent one; `Infinity` is never. @default Infinity */
  shiftEveryMs: { kind: "number", above: 0, max: Infinity, default: Infinity },
  /** Factor of the arrival rate in the first fifth of every ten seconds, at least 1. @default 1 */
  burst: { kind: "number", min: 1, default: 1 },
  /** Share of jobs that have priority 1 instead of 0, from 0 to 1. @default 0 */
  urgentShare: { kind: "number", max: 1, default: 0 },
  /** Mean length of prompts, at least 1; lengths are geometric. @default 64 */
  meanPromptTokens: { kind: "number", min: 1, default: 64 },
  /** Mean length of outputs, at least 1; lengths are geometric. @default 32 */
  meanOutputTokens: { kind: "number", min: 1, default: 32 },
  /** Time from arrival to the deadline of the first token, above 0. @default 1000 */
  firstTokenMs: { kind: "number", above: 0, max: Infinity, default: 1000 },
} as const satisfies LabTable;

/** Options of `generateFleetLoad`. */
export type FleetLoadOptions = OptionsOf<typeof LOAD_OPTIONS>;

type Drawn = ResolvedOf<typeof LOAD_OPTIONS>;

const BURST_PERIOD_MS = 10_000;
const BURST_SHARE = 0.2;

/** Makes shares of domains of which each has one main expert, and all other experts equally. */
export function mainShares(numExperts: number, mainShare: number): readonly (readonly number[])[] {
  const other = (1 - mainShare) / (numExperts - 1);
  return Array.from({ length: numExperts }, (_, domain) =>
    Array.from({ length: numExperts }, (__, expert) => {
      if (numExperts === 1) return 1;
      return expert === domain ? mainShare : other;
    }),
  );
}

/**
 * Computes the `keep` at which a share `locality` of all tokens keeps the expert of the token before.
 * @returns 0 if the shares alone keep it more often
 */
export function keepOf(shares: readonly (readonly number[])[], locality: number): number {
  const same = shares.reduce((sum, row) => sum + row.reduce((all, share) => all + share ** 2, 0), 0) / shares.length;
  return same >= 1 ? 0 : Math.max(0, (locality - same) / (1 - same));
}

/**
 * Draws the jobs of a fleet, in order of arrival, the same for the same options.
 * @throws {TypeError | RangeError} naming the option
 */
export function generateFleetLoad(options: FleetLoadOptions): readonly FleetJob[] {
  const drawn = checkedOptions("generateFleetLoad", LOAD_OPTIONS, options);
  const { seed, numJobs, jobsPerS, burst, meanPromptTokens, meanOutputTokens, firstTokenMs, urgentShare } = drawn;
  let arrivalMs = 0;
  return Array.from({ length: numJobs }, (_, number): FleetJob => {
    const draw = drawsOf(seed, number);
    // Outside bursts the rate is lower, so that the mean is as asked.
    const inBurst = arrivalMs % BURST_PERIOD_MS < BURST_SHARE * BURST_PERIOD_MS;
    const factor = (inBurst ? burst : 1) / (1 + BURST_SHARE * (burst - 1));
    arrivalMs += (-Math.log(1 - draw()) * 1000) / (jobsPerS * factor);
    const promptTokens = geometric(draw(), meanPromptTokens);
    const outputTokens = geometric(draw(), meanOutputTokens);
    const priority = draw() < urgentShare ? 1 : 0;
    const domain = domainAt(draw(), arrivalMs, drawn);
    const experts = routeOf(draw, promptTokens + outputTokens - 1, {
      row: drawn.shares[domain] ?? [],
      keep: drawn.keep,
    });
    const expertShares = sharesOf(experts.slice(0, promptTokens), drawn.shares[domain]?.length ?? 0);
    const key = expertKey(expertShares.indexOf(Math.max(...expertShares)));
    const deadlineMs = arrivalMs + firstTokenMs;
    return { id: `j${number}`, number, arrivalMs, promptTokens, experts, expertShares, key, priority, deadlineMs };
  });
}

function domainAt(uniform: number, nowMs: number, { shares, skew, shiftEveryMs }: Drawn): number {
  const shift = shiftEveryMs === Infinity ? 0 : Math.floor(nowMs / shiftEveryMs);
  const rank = drawIndex(
    uniform,
    shares.map((_, place) => (place + 1) ** -skew),
  );
  return (rank + shift) % shares.length;
}

function routeOf(
  draw: () => number,
  numTokens: number,
  { row, keep }: { readonly row: readonly number[]; readonly keep: number },
): readonly number[] {
  const experts: number[] = [];
  while (experts.length < numTokens) {
    const last = experts.at(-1);
    experts.push(last !== undefined && draw() < keep ? last : drawIndex(draw(), row));
  }
  return experts;
}

/** Counts experts, as shares of all tokens. */
function sharesOf(experts: readonly number[], numExperts: number): readonly number[] {
  const shares = Array.from({ length: numExperts }, () => 0);
  for (const expert of experts) shares[expert] = (shares[expert] ?? 0) + 1 / experts.length;
  return shares;
}
