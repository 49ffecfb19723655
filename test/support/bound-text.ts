// A made-up model that answers under a constraint: random logits, a small vocabulary, the real matching.

import type { EngineVocabulary } from "@readme-moe/core";
import type { Constraint } from "@readme-moe/grammar";

const encoder = new TextEncoder();

/** Single bytes, some longer pieces, a token without bytes, and the end. */
export function smallVocabulary(more: readonly (string | Uint8Array)[] = []): EngineVocabulary {
  const pieces = [
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    ...[...PIECES, ...more].map((piece) => (typeof piece === "string" ? encoder.encode(piece) : piece)),
    new Uint8Array(),
    new Uint8Array(),
  ];
  const offsets = Uint32Array.from({ length: pieces.length + 1 });
  for (const [id, piece] of pieces.entries()) offsets[id + 1] = (offsets[id] ?? 0) + piece.length;
  return {
    vocabSize: pieces.length,
    bytes: Uint8Array.from(pieces.flatMap((piece) => [...piece])),
    offsets,
    eosTokenIds: [pieces.length - 1],
  };
}

const PIECES = [
  '{"',
  '":',
  '": "',
  '", "',
  '"}',
  "},",
  "]}",
  "[1",
  "true",
  "null",
  "é",
  "中",
  "\\u",
  '\\"',
  " a",
  "-1",
  "0.",
  "e5",
  "\n  ",
];

function tokenBytes({ bytes, offsets }: EngineVocabulary, id: number): Uint8Array {
  return bytes.subarray(offsets[id], offsets[id + 1]);
}

export interface BoundText {
  readonly text: string;
  readonly ids: readonly number[];
  /** Came to an end token, and not to the limit. */
  readonly isWhole: boolean;
}

export interface WriteOptions {
  /** After so many tokens what closes things is preferred. @default 40 */
  readonly patience?: number;
  /** @default 600 */
  readonly maxTokens?: number;
  /** What was written before. */
  readonly ids?: readonly number[];
}

/** Draws tokens with weights that are random, as a model would that was never trained. */
export async function writeBound(
  constraint: Constraint,
  vocabulary: EngineVocabulary,
  random: () => number,
  { patience = 40, maxTokens = 600, ids: before = [] }: WriteOptions = {},
): Promise<BoundText> {
  const process = constraint.processor();
  const ids = [...before];
  while (ids.length < maxTokens) {
    const logits = Float32Array.from(
      { length: vocabulary.vocabSize },
      (_, id) => 6 * random() + liking(vocabulary, id, ids.length > patience),
    );
    const context = { tokenIds: Int32Array.from([1, 2, ...ids]), promptTokens: 2, choice: 0 };
    const answer = (await process(logits, context)) ?? logits;
    const best = answer.reduce((most, logit, id) => (logit > (answer[most] as number) ? id : most), 0);
    if (answer[best] === -Infinity) throw new Error(`Nothing may come after ${textOf(vocabulary, ids)}`);
    if (vocabulary.eosTokenIds.includes(best)) return { text: textOf(vocabulary, ids), ids, isWhole: true };
    ids.push(best);
  }
  return { text: textOf(vocabulary, ids), ids, isWhole: false };
}

/** The tokens that may come after some, by asking. */
export async function allowedAfter(
  constraint: Constraint,
  vocabulary: EngineVocabulary,
  ids: readonly number[],
): Promise<readonly number[]> {
  const logits = new Float32Array(vocabulary.vocabSize);
  await constraint.processor()(logits, { tokenIds: Int32Array.from(ids), promptTokens: 0, choice: 0 });
  return Array.from(logits.keys()).filter((id) => logits[id] !== -Infinity);
}

export function textOf(vocabulary: EngineVocabulary, ids: readonly number[]): string {
  return new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => [...tokenBytes(vocabulary, id)])));
}

/** JSON is written more than other bytes, and late what ends it. */
function liking(vocabulary: EngineVocabulary, id: number, isLate: boolean): number {
  if (vocabulary.eosTokenIds.includes(id)) return isLate ? 40 : 0;
  const [byte = 0, second] = tokenBytes(vocabulary, id);
  if (second !== undefined) return 2;
  const character = String.fromCharCode(byte);
  if (!isLate) return '"}],:0123456789{[tfn-.e'.includes(character) ? 3 : 0;
  if ('"}]'.includes(character)) return 30;
  return ":,0123456789truefalsn".includes(character) ? 10 : 0;
}
