// Drafts of a trained head, which continues the model's own states between the engine's steps.

import type { Draft } from "@readme-moe/core";
import type { KvSlot } from "@readme-moe/kernel";
import type { DraftedSequence, DraftingHead, FollowedRows, VerifyingStep } from "./drafter.ts";
import {
  continuedDrafts,
  DraftChain,
  type DraftCosts,
  FIRST_CHANCE,
  FIRST_ROWS,
  savedMs,
  SequenceAverages,
  startingDrafts,
} from "./draft-plan.ts";
import type { HeadOutput, HeadRunner } from "./head-runner.ts";

/** The model's states at a token, and the token that follows. */
interface WaitingRow {
  readonly tokenId: number;
  readonly states: Float32Array;
}

/** A sequence as far as the head has followed it. */
interface Followed {
  readonly slot: KvSlot;
  /** Position in the sequence of the first token that the head has seen the states of. */
  readonly first: number;
  /** Rows that have not run. */
  waiting: WaitingRow[];
  /** Whether a draft began since rows that waited were last made to run. */
  isDrafted: boolean;
}

/** A sequence within a call. */
interface Drafting {
  readonly sequence: DraftedSequence;
  readonly followed: Followed;
  readonly chain: DraftChain;
  last: HeadOutput | undefined;
}

const NO_DRAFT: Draft = { source: "head", tokenIds: [], classes: [] };

/** Rows that may wait for a draft. More of them run at once, or are dropped. */
const MOST_WAITING = 16;
/** Tokens in front of the last one that the head begins with, however long the prompt is. */
const MOST_PAST = 512;
/** Number of sequences of a step from which on nobody is followed, since hardly any draft pays. */
const MANY_SEQUENCES = 8;
/** Chance that a token is reached and accepted, below which a draft ends before it. */
const LEAST_CHANCE = 0.1;

/**
 * Drafts with a head. It follows sequences as they grow, and continues them greedily, all at once. The tokens of a
 * draft depend on what the head has seen of the sequence; time decides only how far it goes.
 *
 * The head's kernel has threads of its own. They sleep while the engine's threads run: the two never run together.
 */
export class HeadDrafter implements DraftingHead {
  readonly #runner: HeadRunner;
  readonly #eosTokenIds: readonly number[];
  /** Sequences by id, the least recently used first. */
  readonly #sequences = new Map<string, Followed>();
  /** Chances of drafted tokens, and times that drafts save. */
  readonly #chances = new SequenceAverages();
  readonly #gains = new SequenceAverages();

  /** @param eosTokenIds - tokens of the model after which nothing follows */
  constructor(runner: HeadRunner, eosTokenIds: readonly number[]) {
    this.#runner = runner;
    this.#eosTokenIds = eosTokenIds;
  }

  get spentMs(): number {
    return this.#runner.spentMs;
  }

  msPerToken(numRows: number): number {
    return this.#runner.msPerRun(numRows) / numRows;
  }

  /** Follows what a step has computed. Rows of prompts run at once, those of an answer with its next draft. */
  follow(steps: readonly FollowedRows[]): void {
    if (steps.length >= MANY_SEQUENCES) {
      for (const { id } of steps) this.#drop(id);
      return;
    }
    for (const step of steps) {
      const { id, tokenIds } = step;
      const from = Math.max(step.from, tokenIds.length - 1 - MOST_PAST);
      const rows = this.#rowsOf(step, from);
      if (rows.length === 0) continue;
      const known = this.#before(id, from);
      const isLong = (known?.waiting.length ?? 0) + rows.length > MOST_WAITING;
      const mayRun = known?.isDrafted === true || rows.length > MOST_WAITING;
      if (isLong && !mayRun) {
        this.#drop(id);
        const dropped = Math.max(0, rows.length - MOST_WAITING);
        this.#begin(id, from + dropped, rows.slice(dropped).map(ownRow));
      } else if (known) known.waiting.push(...rows);
      else this.#begin(id, from, rows);
      const followed = this.#sequences.get(id);
      if (followed && isLong && mayRun) this.#catchUp(id, followed);
    }
  }

  /** Lists the rows of a step from a position on whose next tokens are known. */
  #rowsOf({ tokenIds, from: first, states }: FollowedRows, from: number): readonly WaitingRow[] {
    const width = this.#runner.head.layers.length * this.#runner.head.config.hiddenSize;
    const end = Math.min(first + states.length / width, tokenIds.length - 1);
    return Array.from({ length: Math.max(0, end - from) }, (_, row) => ({
      tokenId: tokenIds[from + row + 1] ?? 0,
      states: states.subarray((from + row - first) * width, (from + row - first + 1) * width),
    }));
  }

  propose(sequences: readonly DraftedSequence[], step: VerifyingStep): readonly Draft[] {
    const members = this.#begun(sequences, step);
    const numRows = members.reduce((sum, { followed }) => sum + followed.waiting.length, 0);
    const bases = members.map(({ followed }) => followed.slot.numTokens + followed.waiting.length);
    const outputs = this.#runner.run(members.map(({ followed }) => rowsOf(followed, true)));
    for (const [index, member] of members.entries()) {
      member.followed.waiting = [];
      member.followed.isDrafted = true;
      extend(member, outputs[index]);
    }
    this.#continue(members, numRows, step);
    for (const [index, { sequence, followed, chain }] of members.entries()) {
      this.#chances.include(sequence.id, chain.seenChances, FIRST_CHANCE);
      this.#gains.include(sequence.id, [savedMs(chain.seenChances, step)], firstGainMs(step));
      this.#runner.kv.truncate(followed.slot, bases[index] ?? 0);
    }
    const drafts = new Map(members.map(({ sequence, chain }) => [sequence.id, chain.draft]));
    return sequences.map(({ id }) => drafts.get(id) ?? NO_DRAFT);
  }

  isPromising(id: string): boolean {
    return this.#sequences.has(id) && (this.#gains.of(id) ?? 0) > this.#runner.msPerRun(FIRST_ROWS);
  }

  forget(id: string): void {
    this.#drop(id);
    this.#chances.forget(id);
    this.#gains.forget(id);
  }

  async dispose(): Promise<void> {
    for (const id of Array.from(this.#sequences.keys())) this.forget(id);
    await this.#runner.close();
  }

  #drop(id: string): void {
    const followed = this.#sequences.get(id);
    if (!followed) return;
    this.#sequences.delete(id);
    this.#runner.kv.release(followed.slot);
  }

  /** Returns what is known of a sequence in front of a position, with nothing behind it; `undefined` with a gap. */
  #before(id: string, position: number): Followed | undefined {
    const followed = this.#sequences.get(id);
    if (!followed) return undefined;
    const { slot, first, waiting } = followed;
    const ran = first + slot.numTokens;
    if (position < first || position > ran + waiting.length) {
      this.#drop(id);
      return undefined;
    }
    if (position < ran) this.#runner.kv.truncate(slot, position - first);
    waiting.length = Math.max(0, position - ran);
    return followed;
  }

  #begin(id: string, first: number, rows: readonly WaitingRow[]): void {
    const slot = this.#withRoom(new Set(), () => this.#runner.kv.admit(1));
    if (slot) this.#sequences.set(id, { slot, first, waiting: [...rows], isDrafted: true });
  }

  #catchUp(id: string, followed: Followed): void {
    // The last row gives the first token of the next draft.
    const last = followed.waiting.splice(-1).map(ownRow);
    if (!this.#makeRoom(followed, followed.waiting.length, new Set([id]))) return this.#drop(id);
    this.#runner.run([rowsOf(followed, false)]);
    followed.waiting = last;
    followed.isDrafted = false;
  }

  #makeRoom({ slot }: Followed, numRows: number, members: ReadonlySet<string>): boolean {
    const numTokens = slot.numTokens + numRows;
    const { kv, head } = this.#runner;
    if (numTokens > head.config.contextTokens) return false;
    return this.#withRoom(members, () => kv.reserve(slot, numTokens) || undefined) ?? false;
  }

  /** Attempts to get memory; sequences that were used least recently make room, but for members of a call. */
  #withRoom<Result>(members: ReadonlySet<string>, attempt: () => Result | undefined): Result | undefined {
    for (;;) {
      const result = attempt();
      if (result !== undefined) return result;
      const oldest = Array.from(this.#sequences.keys()).find((other) => !members.has(other));
      if (oldest === undefined) return undefined;
      this.#drop(oldest);
    }
  }

  /** Begins the drafts of sequences that the head has followed up to their last token, where they may pay. */
  #begun(sequences: readonly DraftedSequence[], step: VerifyingStep): readonly Drafting[] {
    const ready = sequences.flatMap((sequence) => {
      const followed = this.#sequences.get(sequence.id);
      if (!followed || followed.waiting.length === 0) return [];
      const end = followed.first + followed.slot.numTokens + followed.waiting.length;
      return end === sequence.tokenIds.length - 1 ? [{ sequence, followed }] : [];
    });
    const firstMs = firstGainMs(step);
    const prospects = ready.map(({ sequence: { id, mostTokens } }) => ({
      gainMs: this.#gains.of(id) ?? firstMs,
      mostTokens,
    }));
    const starting = new Set(startingDrafts(prospects, this.#costs(step).runMs));
    const members = new Set(ready.map(({ sequence }) => sequence.id));
    return ready.flatMap(({ sequence, followed }, index) => {
      const { id, mostTokens, chancesOf } = sequence;
      if (!starting.has(index)) {
        this.#gains.relax(id, firstMs);
        return [];
      }
      if (!this.#makeRoom(followed, followed.waiting.length + mostTokens - 1, members)) {
        this.#drop(id);
        return [];
      }
      this.#sequences.delete(id);
      this.#sequences.set(id, followed);
      const limits = { mostTokens, leastChance: LEAST_CHANCE, eosTokenIds: this.#eosTokenIds, chancesOf };
      return [{ sequence, followed, chain: new DraftChain(limits), last: undefined }];
    });
  }

  /** Runs one more token of each draft that goes on, until none does. @param firstRows - rows that began the drafts */
  #continue(members: readonly Drafting[], firstRows: number, step: VerifyingStep): void {
    let runsMs = this.#runner.msPerRun(firstRows);
    for (;;) {
      const live = members.filter(({ chain, last }) => last && chain.growsFrom !== undefined);
      const going = this.#going(live, { ...step, ms: step.ms + runsMs }, members);
      for (const one of live) if (!going.includes(one)) one.chain.end();
      if (going.length === 0) return;
      runsMs += this.#runner.msPerRun(going.length);
      const rows = going.flatMap(({ followed: { slot }, chain: { growsFrom = 0 }, last }) =>
        last ? { slot, tokenIds: [growsFrom], states: last.state, isWanted: true } : [],
      );
      for (const [index, output] of this.#runner.run(rows).entries()) {
        const member = going[index];
        if (member) extend(member, output);
      }
    }
  }

  /** Chooses the drafts that get one more token. @param step - the step and all runs so far */
  #going(live: readonly Drafting[], step: VerifyingStep, members: readonly Drafting[]): readonly Drafting[] {
    const tokens = members.reduce((sum, { chain }) => sum + chain.expectedTokens, step.tokens);
    const numRows = members.reduce((sum, { chain }) => sum + chain.length, 0);
    const soFar = { tokens, ms: step.ms + step.msPerRow * numRows };
    const gains = live.map(({ sequence, chain }) => chain.chance * (this.#chances.of(sequence.id) ?? FIRST_CHANCE));
    return continuedDrafts(soFar, gains, this.#costs(step)).flatMap((index) => live[index] ?? []);
  }

  #costs({ msPerRow }: VerifyingStep): DraftCosts {
    return { runMs: (numRows) => this.#runner.msPerRun(numRows), rowMs: msPerRow };
  }
}

/** Estimates what drafts of a new sequence save: one token that is right in most steps. */
function firstGainMs(step: VerifyingStep): number {
  return savedMs([FIRST_CHANCE], step);
}

/** Copies a row, so that it does not keep those of a whole prompt in memory. */
function ownRow({ tokenId, states }: WaitingRow): WaitingRow {
  return { tokenId, states: states.slice() };
}

function extend(member: Drafting, output: HeadOutput | undefined): void {
  member.last = output;
  if (output) member.chain.add(output.tokenId, output.probability);
  else member.chain.end();
}

function rowsOf({ slot, waiting }: Followed, isWanted: boolean): Parameters<HeadRunner["run"]>[0][number] {
  const [first] = waiting;
  const width = first?.states.length ?? 0;
  const states = new Float32Array(waiting.length * width);
  for (const [row, one] of waiting.entries()) states.set(one.states, row * width);
  return { slot, tokenIds: waiting.map(({ tokenId }) => tokenId), states, isWanted };
}
