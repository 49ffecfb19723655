// A request's log in Valkey, from the sides that write and read it.

import { z } from "zod";
import type { FinishReason, GenerateChunk, GeneratedToken, ReadMeErrorCode, Usage } from "@readme-moe/core";
import { requestIdOf } from "../job.ts";
import { CANCEL_CHANNEL, FRONT_PREFIX, jobOfKey, requestKeys } from "../keys.ts";
import { ENDED_TTL_MS, RUNNING_TTL_MS, type ScriptedRedis } from "./scripts.ts";

/** Worker that owns a request. A later owner has a larger epoch. */
interface Owner {
  readonly workerId: string;
  readonly epoch: number;
}

/** A request that a worker has claimed. */
export interface Claim {
  readonly owner: Owner;
  readonly isCancelled: boolean;
  readonly entries: readonly string[];
  /** Time since the request was queued, in ms. */
  readonly sinceQueuedMs: number;
}

/** Makes a worker the owner of a request, and reads what its earlier owners have written. */
export async function claimRequest(redis: ScriptedRedis, requestId: string, workerId: string): Promise<Claim> {
  const { log, meta } = requestKeys(requestId);
  const reply = (await redis.fleetClaim(log, meta, workerId, RUNNING_TTL_MS)) as [number, number, string[], number];
  const [epoch, cancelled, entries, sinceQueuedMs] = reply;
  return { owner: { workerId, epoch }, isCancelled: cancelled === 1, entries, sinceQueuedMs };
}

/** Entries to append to the log of one request. */
export interface Append {
  readonly requestId: string;
  readonly owner: Owner;
  /** Place of the first entry, from 1. */
  readonly place: number;
  readonly entries: readonly string[];
  /** Whether the last of them ends the answer. */
  readonly isEnd: boolean;
}

/**
 * Outcome of an append. "gap": the log has lost entries, and ends at `last`. "foreign": another worker owns the
 * request. "different": another entry is at the place of one of them.
 */
export type AppendOutcome =
  | { readonly kind: "appended" | "foreign" | "cancelled" | "different" }
  | { readonly kind: "gap"; readonly last: number };

/** Appends entries to several logs in one command, each at its place. Entries that are there already are compared. */
export async function appendEntries(
  redis: ScriptedRedis,
  appends: readonly Append[],
): Promise<readonly AppendOutcome[]> {
  const keys: string[] = [];
  const args: (string | number)[] = [FRONT_PREFIX];
  for (const { requestId, owner, place, entries, isEnd } of appends) {
    const { log, meta } = requestKeys(requestId);
    keys.push(log, meta, jobOfKey(requestIdOf(requestId)));
    args.push(requestId, owner.epoch, owner.workerId, place, isEnd ? ENDED_TTL_MS : RUNNING_TTL_MS);
    args.push(isEnd ? 1 : 0, entries.length, ...entries);
  }
  const replies = await redis.fleetAppend(keys.length, ...keys, ...args);
  return (replies as readonly (readonly [number, number])[]).map(outcomeOf);
}

function outcomeOf([outcome, last]: readonly [number, number]): AppendOutcome {
  switch (outcome) {
    case 1:
      return { kind: "appended" };
    case 0:
      return { kind: "gap", last };
    case -1:
      return { kind: "foreign" };
    case -2:
      return { kind: "cancelled" };
    default:
      return { kind: "different" };
  }
}

/** Reads the entries behind a place, at most 1,000, with their places. */
export async function readEntries(
  redis: ScriptedRedis,
  requestId: string,
  after: number,
): Promise<readonly (readonly [place: number, entry: string])[]> {
  const { log } = requestKeys(requestId);
  const found = await redis.xrange(log, `${after + 1}-0`, "+", "COUNT", 1000);
  return found.map(([id, fields]) => [Number.parseInt(id, 10), fields[1] ?? ""]);
}

/** Message for a front: a new entry of an answer that it follows, or the name of another reader of the answer. */
export type News = { readonly jobId: string } & (
  | { readonly place: number; readonly entry: string }
  | { readonly reader: string }
);

/** Splits a message for a front. Lines that nobody writes are left out. */
export function readNews(message: string): readonly News[] {
  return message.split("\n").flatMap((line): News | readonly [] => {
    const first = line.indexOf(" ");
    const second = line.indexOf(" ", first + 1);
    if (first < 0 || second < 0) return [];
    const [jobId, what, rest] = [line.slice(0, first), line.slice(first + 1, second), line.slice(second + 1)];
    if (what === "reader") return { jobId, reader: rest };
    const place = Number(what);
    return Number.isSafeInteger(place) && place > 0 ? { jobId, place, entry: rest } : [];
  });
}

/**
 * Cancels a request: its worker ends it within a step, and no other begins it.
 *
 * @param reader - reader of the request that leaves
 * @returns whether it is cancelled; not if another reader follows it
 */
export async function cancelRequest(redis: ScriptedRedis, requestId: string, reader: string): Promise<boolean> {
  const { meta } = requestKeys(requestId);
  const job = jobOfKey(requestIdOf(requestId));
  return (await redis.fleetCancel(meta, job, CANCEL_CHANNEL, requestId, ENDED_TTL_MS, reader)) === 1;
}

// An entry of a request's log: a chunk of its answer, or the error that ended it, as compact JSON.

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
  c: count.max(127),
  /** Tokens of the choice before this entry. */
  p: count,
  /** Characters of the choice's text before this entry. */
  o: count,
  t: z.array(token),
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

type LogEntry = PlacedChunk | { readonly error: LoggedError };

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

export function endsAnswer(entry: LogEntry): boolean {
  return "error" in entry || entry.chunk.usage !== undefined;
}

/** Meaning of an entry for a reader that has followed the answer so far. */
type Novelty =
  | { readonly kind: "new"; readonly chunk: GenerateChunk }
  /** Everything is known. */
  | { readonly kind: "old" }
  /** Entries before it are missing: of its choice, or at the end of the answer of any. */
  | { readonly kind: "gap" }
  /** It has another token than the one that is known at its place. */
  | { readonly kind: "different" };

/** Tokens and text of an answer's choices so far. */
export class AnswerProgress {
  readonly #choices: readonly { readonly tokenIds: number[]; textLength: number; hasEnded: boolean }[];
  #hasUsage = false;

  constructor(numChoices: number) {
    this.#choices = Array.from({ length: numChoices }, () => ({ tokenIds: [], textLength: 0, hasEnded: false }));
  }

  get tokenIds(): readonly (readonly number[])[] {
    return this.#choices.map(({ tokenIds }) => tokenIds);
  }

  get hasEnded(): boolean {
    return this.#hasUsage;
  }

  /** Places the next chunk of a worker, and takes it over. */
  place(chunk: GenerateChunk): PlacedChunk {
    const choice = this.#choices[chunk.choice];
    const placed = { chunk, position: choice?.tokenIds.length ?? 0, offset: choice?.textLength ?? 0 };
    this.follow(placed);
    return placed;
  }

  /**
   * Takes over a chunk of the log. Its beginning may be known: after entries were lost, another worker may cut the
   * same answer into other chunks.
   */
  follow({ chunk, position, offset }: PlacedChunk): Novelty {
    const choice = this.#choices[chunk.choice];
    if (!choice) return { kind: "different" };
    const known = choice.tokenIds.length - position;
    const knownText = choice.textLength - offset;
    const endsOthers = this.#choices.every((one) => one === choice || one.hasEnded);
    const endsOwn = choice.hasEnded || chunk.finishReason !== undefined;
    const isEarly = chunk.usage !== undefined && !(endsOthers && endsOwn);
    if (known < 0 || knownText < 0 || isEarly) return { kind: "gap" };
    const isSame = chunk.tokens.slice(0, known).every(({ id }, index) => id === choice.tokenIds[position + index]);
    if (!isSame) return { kind: "different" };
    const tokens = chunk.tokens.slice(known);
    const text = chunk.text.slice(knownText);
    const isOver = chunk.finishReason !== undefined && !choice.hasEnded;
    const isDone = chunk.usage !== undefined && !this.#hasUsage;
    if (tokens.length === 0 && text === "" && !isOver && !isDone) return { kind: "old" };
    for (const { id } of tokens) choice.tokenIds.push(id);
    choice.textLength += text.length;
    choice.hasEnded ||= isOver;
    this.#hasUsage ||= isDone;
    return { kind: "new", chunk: { ...chunk, tokens, text } };
  }
}
