// Texts as sequences with the expert of each of their tokens.

import { endOfTextId, type Model } from "@readme-moe/model";
import { prepareDomain, type DomainText } from "../../data/prepare-domain.ts";
import { stepsOf, type ResolvedTuneOptions } from "../options.ts";
import type { RoutedSequence } from "../training/sequences.ts";

/** Sequences that have not been routed. */
export interface TextData {
  readonly training: readonly TextSequence[];
  readonly evaluation: readonly TextSequence[];
  readonly domains: readonly DomainCounts[];
}

export type TextSequence = Omit<RoutedSequence, "experts">;

export interface DomainCounts {
  readonly name: string;
  readonly files: readonly string[];
  readonly documents: number;
  readonly held_out_documents: number;
  readonly tokens: number;
  readonly evaluation_tokens: number;
}

/** The expert of each token of a text. */
export type Route = (tokenIds: Int32Array) => Promise<Uint16Array>;

/** Kinds of text get equal shares, as far as they go. @throws {RangeError} naming the kind that has too little text */
export async function prepareTexts(
  student: Model,
  texts: readonly DomainText[],
  options: ResolvedTuneOptions,
): Promise<TextData> {
  const { tokenizer } = await student.loadText();
  const { batchSequences, sequenceTokens, evaluationSequences, seed } = options;
  const share = Math.ceil((stepsOf(options) * batchSequences) / texts.length) * sequenceTokens;
  const prepared = texts.map((text) =>
    prepareDomain(text, tokenizer, {
      calibrationTokens: share,
      routerTokens: 0,
      evaluationSequences,
      sequenceTokens,
      endOfText: endOfTextId(tokenizer, student.config.eosTokenIds),
      seed,
    }),
  );
  const sequences = (which: "calibration" | "evaluation"): readonly TextSequence[] =>
    prepared.flatMap((domain, index) => domain[which].map((tokenIds) => ({ tokenIds, domain: index })));
  return {
    training: sequences("calibration"),
    evaluation: sequences("evaluation"),
    domains: prepared.map((domain, index) => ({
      name: domain.name,
      files: texts[index]?.files ?? [],
      documents: domain.calibrationDocuments,
      held_out_documents: domain.heldOutDocuments,
      tokens: domain.calibration.length * sequenceTokens,
      evaluation_tokens: domain.evaluation.length * sequenceTokens,
    })),
  };
}

export async function routeAll(
  sequences: readonly TextSequence[],
  route: Route,
  signal: AbortSignal | undefined,
): Promise<readonly RoutedSequence[]> {
  const routed: RoutedSequence[] = [];
  for (const sequence of sequences) {
    signal?.throwIfAborted();
    routed.push({ ...sequence, experts: await route(sequence.tokenIds) });
  }
  return routed;
}
