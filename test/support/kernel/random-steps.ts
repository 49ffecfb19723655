// Random ways to bring sequences through a kernel: chunks, batches, pages anywhere, prefixes shared by reference.

import * as fc from "../fast-check.ts";
import { KV_PAGE_TOKENS, type StepRows } from "@readme-moe/kernel";
import { randomInteger, seededRandom } from "../random.ts";

/** Sequences, and what is chosen anew in each replay. */
export interface SequencesShape {
  readonly seed: number;
  readonly lengths: readonly number[];
  /** Pages of the first sequence that the others begin with, at most; 0 shares none. */
  readonly sharedPages: number;
}

export const sequencesShape: fc.Arbitrary<SequencesShape> = fc.record({
  seed: fc.nat(2 ** 31 - 1),
  lengths: fc.array(fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 60 })), {
    minLength: 1,
    maxLength: 4,
  }),
  sharedPages: fc.nat(2),
});

/** A sequence of tokens, of which the first come from another one's pages. */
export interface TestSequence {
  readonly tokenIds: readonly number[];
  readonly sharedPages: number;
}

/** The first sequence shares its pages with the others, each as many as both are long enough for. */
export function randomSequences(
  { seed, lengths, sharedPages }: SequencesShape,
  vocabSize: number,
): readonly TestSequence[] {
  const random = seededRandom(seed);
  const all = lengths.map((length) => Array.from({ length }, () => randomInteger(random, vocabSize)));
  const [first = []] = all;
  return all.map((tokenIds, index) => {
    // A whole shared prefix leaves at least one token to compute.
    const pages = index === 0 ? 0 : Math.min(sharedPages, pagesIn(first.length), pagesIn(tokenIds.length - 1));
    const shared = first.slice(0, pages * KV_PAGE_TOKENS);
    return { tokenIds: [...shared, ...tokenIds.slice(shared.length)], sharedPages: pages };
  });
}

function pagesIn(numTokens: number): number {
  return Math.floor(Math.max(0, numTokens) / KV_PAGE_TOKENS);
}

/** Experts that tokens and positions decide on, so that shared pages have the same. */
export function expertsOf(tokenIds: readonly number[], numExperts: number, position = 0): readonly number[] {
  return tokenIds.map((id, index) => Math.floor((7 * id + position + index) / 3) % numExperts);
}

/** Slots of loras, -1 for none, that seldom differ between neighbours; the same for shared pages. */
export function lorasOf(tokenIds: readonly number[], numLoras: number, position = 0): readonly number[] {
  return tokenIds.map(
    (id, index) => ((Math.floor((position + index) / 5) + (id % 7 === 0 ? 1 : 0)) % (numLoras + 1)) - 1,
  );
}

/** A position of a sequence whose logits a step gives. */
export interface WantedPosition {
  readonly sequence: number;
  readonly position: number;
  /** An output of the head. */
  readonly target: number;
}

export interface TestStep {
  readonly rows: readonly StepRows[];
  /** In the order of the step's wanted rows. */
  readonly wanted: readonly WantedPosition[];
}

interface StepSizes {
  /** Free pages, which are taken from the end. */
  readonly pages: number[];
  readonly maxRows: number;
  readonly numLogits: number;
  readonly numExperts: number;
  /** @default 0 */
  readonly numLoras?: number | undefined;
  /** Free states of a model with recurrences. @default it has none */
  readonly states?: number[] | undefined;
}

/** Chooses steps that compute every token once. */
export function randomSteps(
  random: () => number,
  sequences: readonly TestSequence[],
  { pages, maxRows, numLogits, numExperts, numLoras = 0, states }: StepSizes,
): readonly TestStep[] {
  const placed = states && new PlacedStates(random, states, sequences);
  const done = sequences.map(({ sharedPages }) => sharedPages * KV_PAGE_TOKENS);
  const tables: number[][] = sequences.map(() => []);
  const steps: TestStep[] = [];
  const isReady = (index: number): boolean =>
    (done[index] as number) < (sequences[index]?.tokenIds.length ?? 0) &&
    (index === 0 || (done[0] as number) >= (sequences[index]?.sharedPages ?? 0) * KV_PAGE_TOKENS);
  for (;;) {
    const ready = shuffled(random, Array.from(sequences.keys()).filter(isReady));
    if (ready.length === 0) return steps;
    placed?.begin();
    const members = ready.slice(0, 1 + randomInteger(random, ready.length));
    const style = random();
    let room = maxRows - members.length;
    const rows: StepRows[] = [];
    const wanted: WantedPosition[] = [];
    for (const sequence of members) {
      const { tokenIds, sharedPages } = sequences[sequence] as TestSequence;
      const position = done[sequence] as number;
      const most = Math.min(tokenIds.length - position, room + 1);
      // Some steps decode, some take all that there is, most are anything between.
      const count = style < 0.3 ? 1 : style < 0.5 ? most : 1 + randomInteger(random, most);
      room -= count - 1;
      done[sequence] = position + count;
      const table = tables[sequence] as number[];
      if (table.length === 0) table.push(...(tables[0] as number[]).slice(0, sharedPages));
      while (table.length * KV_PAGE_TOKENS < position + count) table.push(pages.pop() as number);
      const logitsOf = randomRows(random, count);
      const targets = logitsOf.map(() => randomInteger(random, numLogits));
      const taken = tokenIds.slice(position, position + count);
      rows.push({
        tokenIds: taken,
        experts: expertsOf(taken, numExperts, position),
        loras: lorasOf(taken, numLoras, position),
        position,
        pages: table.slice(),
        logitsOf,
        targets,
        ...placed?.next(sequence, position, count),
      });
      wanted.push(...logitsOf.map((row, i) => ({ sequence, position: position + row, target: targets[i] as number })));
    }
    steps.push({ rows, wanted });
  }
}

/** States of sequences: in place, or in another place at each step; with saves on the way, some of which others read. */
class PlacedStates {
  readonly #random: () => number;
  readonly #free: number[];
  readonly #sequences: readonly TestSequence[];
  /** State of each sequence behind its last step. */
  readonly #own: (number | undefined)[] = [];
  /** States behind the first sequence's pages, by position. */
  readonly #shared = new Map<number, number>();
  readonly #freed: number[] = [];

  constructor(random: () => number, free: readonly number[], sequences: readonly TestSequence[]) {
    this.#random = random;
    this.#free = free.slice();
    this.#sequences = sequences;
  }

  /** Begins a step: what the one before has read or saved in vain is free. */
  begin(): void {
    this.#free.push(...this.#freed.splice(0));
  }

  next(sequence: number, position: number, count: number): Pick<StepRows, "state" | "saves"> {
    const isShared = (end: number): boolean =>
      sequence === 0 &&
      this.#sequences.some(({ sharedPages }) => sharedPages > 0 && sharedPages * KV_PAGE_TOKENS === end);
    const state = this.#own[sequence] ?? this.#shared.get(position);
    const saves: { token: number; state: number }[] = [];
    for (let token = 0; token < count - 1; token++) {
      const end = position + token + 1;
      if (isShared(end)) this.#shared.set(end, this.#take());
      const scratch =
        isShared(end) || this.#random() > 0.1 || this.#free.length <= 2 * this.#sequences.length
          ? undefined
          : this.#take();
      if (scratch !== undefined) this.#freed.push(scratch);
      const saved = isShared(end) ? this.#shared.get(end) : scratch;
      if (saved !== undefined) saves.push({ token, state: saved });
    }
    const end = position + count;
    const isKept = isShared(end) || state === undefined || state !== this.#own[sequence] || this.#isRead(state);
    const last = isKept || this.#random() < 0.5 ? this.#take() : state;
    if (state !== undefined && last !== state && state === this.#own[sequence] && !this.#isRead(state))
      this.#freed.push(state);
    if (isShared(end)) this.#shared.set(end, last);
    this.#own[sequence] = last;
    return { state, saves: [...saves, { token: count - 1, state: last }] };
  }

  #isRead(state: number): boolean {
    return Array.from(this.#shared.values()).includes(state);
  }

  #take(): number {
    return this.#free.pop()!;
  }
}

/** Some rows of `count` in rising order, some of them twice; often the last one. */
function randomRows(random: () => number, count: number): readonly number[] {
  const all = Array.from({ length: count }, (_, row) => row);
  return all.flatMap((row) => {
    const times = random() < 0.7 || row === count - 1 ? (random() < 0.1 ? 2 : 1) : 0;
    return Array.from({ length: times }, () => row);
  });
}

export function shuffled<Item>(random: () => number, items: readonly Item[]): Item[] {
  const result = items.slice();
  for (let i = result.length - 1; i > 0; i--) {
    const other = randomInteger(random, i + 1);
    [result[i], result[other]] = [result[other] as Item, result[i] as Item];
  }
  return result;
}
