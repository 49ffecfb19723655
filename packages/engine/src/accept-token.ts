import type { FinishReason, GenerateChunk, GeneratedToken } from "@readme-moe/core";
import type { Sequence } from "./sequence.ts";

/**
 * Adds a chosen token to its sequence and says what may be shown of it, and whether it was the last.
 *
 * @param maxTokens - that one sequence can have, prompt included
 */
export function acceptToken(
  sequence: Sequence,
  token: GeneratedToken,
  { eosTokenIds, maxTokens }: { readonly eosTokenIds: readonly number[]; readonly maxTokens: number },
): GenerateChunk {
  const { params, decoder, stops, choice } = sequence;
  sequence.tokenIds.push(token.id);
  sequence.counts.add(token.id);
  const isEnd = (!params.ignoreEos && eosTokenIds.includes(token.id)) || params.stopTokenIds.has(token.id);
  // An end token says that the text is over; it is no part of it, even where it has a spelling.
  const { text, stopped } = stops.push(isEnd ? decoder.flush() : decoder.push(token.id));
  const tokens = [token];
  if (stopped) {
    sequence.finishReason = "stop";
    return { choice, text, tokens, finishReason: "stop", stop: stopped.stop };
  }
  sequence.finishReason = isEnd ? "stop" : finishedByLength(sequence, maxTokens);
  if (sequence.finishReason === undefined) return { choice, text, tokens };
  const held = stops.push(isEnd ? "" : decoder.flush());
  const last = held.stopped ? undefined : stops.flush();
  const stop = (held.stopped ?? last?.stopped)?.stop;
  const rest = text + held.text + (last?.text ?? "");
  if (stop !== undefined) sequence.finishReason = "stop";
  const finished = { choice, text: rest, tokens, finishReason: sequence.finishReason };
  return stop === undefined ? finished : { ...finished, stop };
}

function finishedByLength(sequence: Sequence, maxTokens: number): FinishReason | undefined {
  const isFull = sequence.completionTokens >= sequence.params.maxTokens || sequence.numTokens >= maxTokens;
  return isFull ? "length" : undefined;
}
