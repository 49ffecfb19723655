// Measures the costs of steps on this machine before the first request, so that the first decisions are not guesses.

import { readFile } from "node:fs/promises";
import { cpus } from "node:os";
import { DEFAULT_COST_MODEL, refineCostModel, type CostModel, type Residency } from "@readme-moe/core";
import { cachedData, resolveCacheFolder } from "@readme-moe/model";
import type { StepRunner } from "./step-runner.ts";

const MOST_MS = 500;
const PAST_TOKENS = 64;
const SEQUENCES = 8;

export interface MeasureOptions {
  readonly residency: Residency;
  readonly now: () => number;
  /** Time in ms after which no further step begins. @default 500 */
  readonly mostMs?: number | undefined;
}

/** Lists steps of few and many tokens and of one and several experts, the most informative first. */
function probes(
  numExperts: number,
): readonly { readonly sequences: number; readonly tokensEach: number; readonly experts: number }[] {
  const many = { sequences: SEQUENCES, tokensEach: 1, experts: 1 };
  const one = { ...many, sequences: 1 };
  const spread = { ...many, experts: Math.min(numExperts, SEQUENCES) };
  const prefill = { ...one, tokensEach: PAST_TOKENS };
  return [many, one, prefill, spread, one, many, one, spread, one];
}

/**
 * Measures the coefficients of a runner's steps with meaningless tokens. The first step is not counted: it allocates
 * memory and reads the model's pages for the first time.
 */
export async function measureCost(
  runner: StepRunner,
  { residency, now, mostMs = MOST_MS }: MeasureOptions,
): Promise<CostModel> {
  const { numLayers, contextTokens, vocabSize, encoder } = runner.model.config;
  // Texts of encoders run whole, in the order of their arrival, whatever a step costs.
  if (encoder) return DEFAULT_COST_MODEL;
  const perSequence = Math.min(3 * PAST_TOKENS, contextTokens);
  if (perSequence < 2 * PAST_TOKENS || numLayers === 0) return DEFAULT_COST_MODEL;
  const kv = runner.openKv({ capacityTokens: SEQUENCES * 3 * PAST_TOKENS });
  try {
    const slots = Array.from({ length: SEQUENCES }).flatMap(() => kv.admit(perSequence) ?? []);
    const startMs = now();
    let cost: CostModel = DEFAULT_COST_MODEL;
    for (const [index, probe] of [...probes(1).slice(0, 1), ...probes(runner.model.experts.names.length)].entries()) {
      if (index > 1 && now() - startMs > mostMs) break;
      const members = slots.slice(0, probe.sequences);
      const experts = Array.from({ length: probe.experts }, (_, expert) => expert);
      const work = {
        tokens: probe.sequences * probe.tokensEach,
        distinctExperts: probe.experts,
        cachedTokens: members.reduce((sum, { numTokens }) => sum + numTokens, 0),
        missingBytes: experts.reduce((sum, expert) => sum + (residency.missingBytes[expert] ?? 0), 0),
      };
      const stepMs = now();
      await runner.forward(
        kv,
        members.map((slot, place) => ({
          slot,
          tokenIds: Int32Array.from({ length: probe.tokensEach }, (_, token) => (token + place) % vocabSize),
          experts: new Uint16Array(probe.tokensEach).fill(place % probe.experts),
          logitsOf: [probe.tokensEach - 1],
        })),
      );
      const durationMs = now() - stepMs;
      if (index > 0) cost = refineCostModel(cost, { work, durationMs });
    }
    return cost;
  } finally {
    kv.dispose();
  }
}

/**
 * Returns the cached result of `measure`, or measures. Measures each time if the cache cannot be used.
 * @param key - fingerprint of the model, its precision and the kernel's instructions, and all else that costs depend on
 */
export async function cachedCost(
  key: { readonly fingerprint: string; readonly threads: number | undefined; readonly isStreamed: boolean },
  cacheFolder: string | undefined,
  measure: () => Promise<CostModel>,
): Promise<CostModel> {
  let measured: CostModel | undefined;
  let failure: unknown;
  const machine = `${cpus()[0]?.model ?? ""} x ${cpus().length}`;
  try {
    const path = await cachedData(resolveCacheFolder(cacheFolder), {
      kind: "costs",
      key: JSON.stringify({ ...key, machine }),
      note: "coefficients of a step's time, JSON",
      chunks: async function* () {
        measured = await measure().catch((error: unknown) => {
          failure = error;
          throw error;
        });
        yield new TextEncoder().encode(JSON.stringify(measured));
      },
    });
    return measured ?? (JSON.parse(await readFile(path, "utf8")) as CostModel);
  } catch (error) {
    // The engine works without the cache, whatever is wrong with it.
    if (failure !== undefined) throw error;
    return measured ?? measure();
  }
}
