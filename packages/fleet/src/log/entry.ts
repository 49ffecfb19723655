// An entry of a request's log: a chunk of its answer, or the error that ended it, as compact JSON.

import type { FinishReason, GenerateChunk, GeneratedToken, ReadMeErrorCode, Usage } from "@readme-moe/core";
import { z } from "zod";

const count = z.number().int().nonnegative();
const usage: z.ZodType<Usage> = z.strictObject({
  promptTokens: count,
  completionTokens: count,
  cachedTokens: count,
  queuedMs: z.number().nonnegative(),
  acceptedDraftTokens: count,
  rejectedDraftTokens: count,
});
const listed = z.strictObject({ id: count, text: z.string(), logprob: z.number() });
const token: z.ZodType<GeneratedToken> = z.strictObject({
  id: count,
  expert: count.exactOptional(),
  logprob: z.number().exactOptional(),
  topLogprobs: z.array(listed).max(20).exactOptional(),
});
const chunkEntry = z.strictObject({
  /** Choice. */
  c: count.max(127),
  /** Tokens of the choice before this entry. */
  p: count,
  /** Characters of the choice's text before this entry. */
  o: count,
  /** Tokens. */
  t: z.array(token),
  /** Text. */
  x: z.string(),
  /** Reason why the choice ended. */
  f: z.enum(["stop", "length"]).exactOptional(),
  /** Stop string that ended the choice. */
  s: z.string().exactOptional(),
  /** Usage, with which the answer ends. */
  u: usage.exactOptional(),
});
const errorEntry = z.strictObject({
  error: z.strictObject({
    kind: z.enum(["ReadMeError", "TypeError", "RangeError"]),
    code: z.string().max(64).exactOptional(),
    message: z.string(),
  }),
});
const entrySchema = z.union([chunkEntry, errorEntry]);

/** A chunk with its place in its choice. */
export interface PlacedChunk {
  readonly chunk: GenerateChunk;
  /** Tokens, and characters of text, of the choice before the chunk. */
  readonly position: number;
  readonly offset: number;
}

/** Error that ended an answer. */
export interface LoggedError {
  readonly kind: "ReadMeError" | "TypeError" | "RangeError";
  readonly code?: ReadMeErrorCode;
  readonly message: string;
}

/** Contents of an entry. */
export type LogEntry = PlacedChunk | { readonly error: LoggedError };

/** Writes an entry. */
export function writeEntry(entry: LogEntry): string {
  if ("error" in entry) return JSON.stringify({ error: entry.error });
  const { chunk, position, offset } = entry;
  const { choice, text, tokens, finishReason, stop, usage: used } = chunk;
  return JSON.stringify({
    c: choice,
    p: position,
    o: offset,
    t: tokens,
    x: text,
    ...(finishReason !== undefined && { f: finishReason }),
    ...(stop !== undefined && { s: stop }),
    ...(used !== undefined && { u: used }),
  });
}

/**
 * Reads an entry.
 *
 * @returns nothing for what no worker writes
 */
export function readEntry(text: string): LogEntry | undefined {
  const value = parseJson(text);
  const plain = readPlain(value);
  if (plain) return plain;
  const parsed = entrySchema.safeParse(value);
  if (!parsed.success) return undefined;
  const { data } = parsed;
  if ("error" in data) return { error: data.error as LoggedError };
  const { c: choice, p: position, o: offset, t: tokens, x, f, s, u } = data;
  const finish: { finishReason?: FinishReason } = f === undefined ? {} : { finishReason: f };
  const chunk: GenerateChunk = {
    choice,
    text: x,
    tokens,
    ...finish,
    ...(s !== undefined && { stop: s }),
    ...(u !== undefined && { usage: u }),
  };
  return { chunk, position, offset };
}

/** Reads what nearly all entries are, tokens and text alone, in a fifth of the schema's time. */
function readPlain(value: unknown): PlacedChunk | undefined {
  if (typeof value !== "object" || value === null || Object.keys(value).length !== 5) return undefined;
  const { c: choice, p: position, o: offset, t: tokens, x: text } = value as Readonly<Record<string, unknown>>;
  const isPlaced = isCount(choice) && choice <= 127 && isCount(position) && isCount(offset);
  if (!isPlaced || typeof text !== "string" || !Array.isArray(tokens) || !tokens.every(isPlainToken)) return undefined;
  return { chunk: { choice, text, tokens }, position, offset };
}

function isPlainToken(value: unknown): value is GeneratedToken {
  if (typeof value !== "object" || value === null) return false;
  const { id, expert, ...more } = value as Readonly<Record<string, unknown>>;
  return isCount(id) && (expert === undefined || isCount(expert)) && Object.keys(more).length === 0;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Tells whether an answer ends with this entry. */
export function endsAnswer(entry: LogEntry): boolean {
  return "error" in entry || entry.chunk.usage !== undefined;
}
