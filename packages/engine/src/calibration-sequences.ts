import { createHash } from "node:crypto";
import type { CalibrationTokens } from "@readme-moe/kernel";
import type { Model } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { CALIBRATION_TEXTS } from "./calibration-texts.ts";

const SEQUENCE_TOKENS = 256;

interface Options {
  readonly threads?: number | undefined;
  readonly cacheFolder?: string | undefined;
}

/** A number that changes with the tokens, or with what comes out of them. */
export function fingerprintOf(version: number, tokens: readonly (readonly number[])[]): string {
  return createHash("sha256")
    .update(`${version} ${JSON.stringify(tokens)}`)
    .digest("hex")
    .slice(0, 16);
}

/** Tokens of typical text; for a model without a tokenizer tokens of no meaning, which show its large channels as well. */
export async function calibrationTokens(model: Model): Promise<readonly (readonly number[])[]> {
  const ids = await typicalTokens(model);
  const limit = Math.min(SEQUENCE_TOKENS, model.config.contextTokens);
  const sequences: number[][] = [];
  for (let start = 0; start < ids.length; start += limit) sequences.push(ids.slice(start, start + limit));
  return sequences;
}

/** With the experts that the model's own router chooses; without a router, all experts in turn. */
export async function routed(
  model: Model,
  sequences: readonly (readonly number[])[],
  options: Options,
): Promise<readonly CalibrationTokens[]> {
  const numExperts = model.experts.names.length;
  if (numExperts === 1 || !model.router) return inTurn(sequences, numExperts);
  const router = await openRouter(model, "router", options);
  try {
    const withExperts: CalibrationTokens[] = [];
    for (const tokenIds of sequences) {
      const [route] = await router.route([{ state: router.start(), tokenIds }]);
      withExperts.push({ tokenIds, experts: route?.experts ?? [] });
    }
    return withExperts;
  } finally {
    await router.dispose();
  }
}

/** Each token with another expert than the one before. */
export function inTurn(sequences: readonly (readonly number[])[], numExperts: number): readonly CalibrationTokens[] {
  return sequences.map((tokenIds) => ({ tokenIds, experts: tokenIds.map((_, index) => index % numExperts) }));
}

async function typicalTokens(model: Model): Promise<number[]> {
  const { vocabSize } = model.config;
  const text = await model.loadText().catch(() => undefined);
  if (!text) return meaninglessTokens(SEQUENCE_TOKENS, vocabSize);
  return CALIBRATION_TEXTS.flatMap((document) => Array.from(text.tokenizer.encode(document)));
}

/** Tokens from all over the vocabulary. */
export function meaninglessTokens(count: number, vocabSize: number): number[] {
  return Array.from({ length: count }, (_, index) => (index * 7919) % vocabSize);
}
