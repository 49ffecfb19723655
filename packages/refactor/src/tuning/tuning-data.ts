// Texts of a tuning as sequences, the expert of each of their tokens, and the batches of its steps.

import { seededRandom } from "@readme-moe/core";
import { endOfTextId, type Model } from "@readme-moe/model";
import { prepareDomain, type DomainText } from "../job/prepare-domain.ts";
import { shuffled } from "../random.ts";
import type { Route } from "../router-training/routes.ts";
import type { Batch, Labels } from "./decoder.ts";
import { stepsOf, type ResolvedTuneOptions } from "./options.ts";

export interface RoutedSequence {
  readonly tokenIds: Int32Array;
  readonly experts: Uint16Array;
  /** Index of the text's kind. */
  readonly domain: number;
}

export type TextSequence = Omit<RoutedSequence, "experts">;

/** Sequences that are trained on and measured with. */
export interface TuningData<Sequence = RoutedSequence> {
  readonly training: readonly Sequence[];
  readonly evaluation: readonly Sequence[];
}

export interface TextData extends TuningData<TextSequence> {
  readonly domains: readonly DomainCounts[];
}

export interface DomainCounts {
  readonly name: string;
  readonly files: readonly string[];
  readonly documents: number;
  readonly held_out_documents: number;
  readonly tokens: number;
  readonly evaluation_tokens: number;
}

/** Cuts texts into sequences. Kinds of text get equal shares, as far as their text suffices. */
export async function prepareTexts(
  model: Model,
  texts: readonly DomainText[],
  options: Pick<ResolvedTuneOptions, "tokens" | "batchSequences" | "sequenceTokens" | "evaluationSequences" | "seed">,
): Promise<TextData> {
  const { tokenizer } = await model.loadText();
  const { batchSequences, sequenceTokens, evaluationSequences, seed } = options;
  const share = Math.ceil((stepsOf(options) * batchSequences) / texts.length) * sequenceTokens;
  const prepared = texts.map((text) => ({
    files: text.files,
    ...prepareDomain(text, tokenizer, {
      calibrationTokens: share,
      routerTokens: 0,
      evaluationSequences,
      sequenceTokens,
      endOfText: endOfTextId(tokenizer, model.config.eosTokenIds),
      seed,
    }),
  }));
  const sequences = (which: "calibration" | "evaluation"): readonly TextSequence[] =>
    prepared.flatMap((text, domain) => text[which].map((tokenIds) => ({ tokenIds, domain })));
  return {
    training: sequences("calibration"),
    evaluation: sequences("evaluation"),
    domains: prepared.map(({ name, files, calibration, evaluation, calibrationDocuments, heldOutDocuments }) => ({
      name,
      files,
      documents: calibrationDocuments,
      held_out_documents: heldOutDocuments,
      tokens: calibration.length * sequenceTokens,
      evaluation_tokens: evaluation.length * sequenceTokens,
    })),
  };
}

export async function routeAll(
  { training, evaluation }: TextData,
  route: Route,
  signal: AbortSignal | undefined,
): Promise<TuningData> {
  const routed = async (sequences: readonly TextSequence[]): Promise<readonly RoutedSequence[]> => {
    const result: RoutedSequence[] = [];
    for (const sequence of sequences) {
      signal?.throwIfAborted();
      result.push({ ...sequence, experts: await route(sequence.tokenIds) });
    }
    return result;
  };
  return { training: await routed(training), evaluation: await routed(evaluation) };
}

/**
 * Selects the sequences of one step; each epoch has a new order. Sequences that prefer the same expert are adjacent, so
 * that those that run together use few experts.
 *
 * @param step - from 0
 */
export function sequencesOfStep<Sequence extends TextSequence & Partial<RoutedSequence>>(
  all: readonly Sequence[],
  step: number,
  { batchSequences, seed }: { readonly batchSequences: number; readonly seed: number },
): readonly Sequence[] {
  const drawn = Array.from({ length: batchSequences }, (_, place) => {
    const index = step * batchSequences + place;
    const epoch = Math.floor(index / all.length);
    return all[epochOrder(all.length, seed, epoch)[index - epoch * all.length]!]!;
  });
  return drawn.toSorted((a, b) => commonestExpert(a.experts) - commonestExpert(b.experts));
}

/** Joins sequences to a batch of `length`, in which the last sequence is repeated. */
export function batchOf(sequences: readonly RoutedSequence[], length: number = sequences.length): Batch {
  const padded = Array.from({ length }, (_, i) => sequences[Math.min(i, sequences.length - 1)]!);
  const tokens = padded[0]?.tokenIds.length ?? 0;
  const tokenIds = new Int32Array(length * tokens);
  const experts = new Uint16Array(length * tokens);
  padded.forEach((sequence, i) => {
    tokenIds.set(sequence.tokenIds, i * tokens);
    experts.set(sequence.experts, i * tokens);
  });
  return { tokenIds, experts };
}

/**
 * Labels each token with its next one; the last token of a sequence has weight 0.
 *
 * @param weight - of the other tokens
 */
export function labelsOf({ tokenIds }: Pick<Batch, "tokenIds">, sequenceTokens: number, weight: number): Labels {
  const ids = new Int32Array(tokenIds.length);
  ids.set(tokenIds.subarray(1));
  const weights = new Float32Array(tokenIds.length).fill(weight);
  for (let last = sequenceTokens - 1; last < ids.length; last += sequenceTokens) {
    ids[last] = 0;
    weights[last] = 0;
  }
  return { ids, weights };
}

/** Returns the expert of most tokens, 0 of sequences without experts. */
function commonestExpert(experts: Uint16Array = new Uint16Array()): number {
  const counts: number[] = [];
  for (const expert of experts) counts[expert] = (counts[expert] ?? 0) + 1;
  let best = 0;
  counts.forEach((count, expert) => {
    if (count > (counts[best] ?? 0)) best = expert;
  });
  return best;
}

let latest: { readonly key: string; readonly order: readonly number[] } | undefined;

function epochOrder(length: number, seed: number, epoch: number): readonly number[] {
  const key = `${length} ${seed} ${epoch}`;
  if (latest?.key !== key) {
    const ownSeed = Math.floor(seededRandom((seed ^ Math.imul(epoch + 1, 0x9e3779b9)) >>> 0)() * 2 ** 32);
    latest = { key, order: shuffled([...Array(length).keys()], ownSeed) };
  }
  return latest.order;
}
