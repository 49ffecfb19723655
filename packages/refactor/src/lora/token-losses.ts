// Losses of the tokens of sequences, with given experts.

import { batchOf, labelsOf, type TextSequence } from "../tuning/tuning-data.ts";
import type { Adapter } from "./adapter.ts";
import type { AdaptedModel } from "./adapted-model.ts";

/** Experts of a run over sequences. */
export interface LossOptions {
  /** None for the dense model, one for all tokens, or several with a choice for each token. */
  readonly adapters: readonly Adapter[];
  /** Chooses the expert of each token of a sequence, 0 for none; for several adapters. */
  readonly route?: ((sequence: TextSequence) => Uint16Array) | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Returns the loss of each token's next one for each sequence; the last token's is of no token, and 0. */
export async function lossesOfTokens(
  model: AdaptedModel,
  sequences: readonly TextSequence[],
  { adapters, route, signal }: LossOptions,
): Promise<readonly Float32Array[]> {
  const { sequences: together, sequenceTokens } = model.settings;
  const result: Float32Array[] = [];
  for (let from = 0; from < sequences.length; from += together) {
    signal?.throwIfAborted();
    const some = sequences.slice(from, from + together);
    const routed = some.map((sequence) => ({
      ...sequence,
      experts: route?.(sequence) ?? new Uint16Array(sequence.tokenIds.length),
    }));
    const { tokenIds, experts } = batchOf(routed, together);
    const { ids } = labelsOf({ tokenIds, experts }, sequenceTokens, 1);
    const rows = route
      ? await model.routedLosses(tokenIds, ids, { adapters, routes: experts })
      : await model.losses(tokenIds, ids, adapters[0]);
    some.forEach((_, place) => {
      const own = rows.slice(place * sequenceTokens, (place + 1) * sequenceTokens);
      own[sequenceTokens - 1] = 0;
      result.push(own);
    });
    await breathe();
  }
  return result;
}

/** Averages the losses of a sequence's tokens except the last one. */
export function meanLoss(rows: Float32Array): number {
  return rows.reduce((sum, loss) => sum + loss, 0) / (rows.length - 1);
}

/** Makes a break: runs block their thread, and neither signals nor timers would be handled. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
