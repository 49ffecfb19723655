// Assigns states of recurrences to sequences. The numbers themselves are in the kernel.

import type { KeptState, KvSlot, KvStates } from "./kv-shape.ts";

/** States of a slot. */
interface SlotStates {
  /** Position at which the last step began, whose state stays until the next step. */
  start: number;
  /** State numbers by position. */
  readonly at: Map<number, number>;
  /** Number of states that the next step may take beside the one behind its last token. */
  drafted: number;
  /** Whether the state behind the last part of the step that runs was to be saved. */
  isEndWanted: boolean;
}

/** States of a slot that wait for its next step: in front of its first token, and behind its last. */
export const STATES_OF_SLOT = 2;

/**
 * Accounting of states. A slot has one where its last step began and behind each position that the step was to save, so
 * that it may go back to any of these; the next step drops all but the one that it goes on with. Nothing is copied:
 * a state is read from one place and written to another.
 */
export class StatePool implements KvStates {
  readonly stateBytes: number;
  readonly #capacity: number;
  readonly #references: Uint32Array;
  readonly #free: number[];
  readonly #slots = new Map<KvSlot, SlotStates>();
  readonly #kept = new Map<KeptState, number>();
  readonly #evict: () => boolean;

  /**
   * @param capacity - number of states of all slots
   * @param numKept - number of further states for what is kept
   * @param evict - drops something that is kept; returns false when there is nothing
   */
  constructor(stateBytes: number, capacity: number, numKept: number, evict: () => boolean) {
    this.stateBytes = stateBytes;
    this.#capacity = capacity;
    this.#references = new Uint32Array(stateBytes > 0 ? capacity + numKept : 0);
    this.#free = Array.from(this.#references, (_, index) => this.#references.length - 1 - index);
    this.#evict = evict;
  }

  get numStates(): number {
    return this.#references.length;
  }

  /** Number of states that slots may take until their next steps have ended. */
  get #promised(): number {
    let sum = 0;
    for (const { at, drafted } of this.#slots.values()) sum += Math.max(at.size, STATES_OF_SLOT + drafted);
    return sum;
  }

  /** Tells whether another slot can be admitted. */
  get hasRoom(): boolean {
    return this.stateBytes === 0 || this.#promised + STATES_OF_SLOT <= this.#capacity;
  }

  /** Admits a slot, which begins with a kept state or at position 0. */
  admit(slot: KvSlot, kept?: KeptState): void {
    if (this.stateBytes === 0) return;
    const at = new Map<number, number>();
    if (kept) {
      const state = this.numberOf(kept);
      this.#add(state);
      at.set(kept.position, state);
    }
    this.#slots.set(slot, { start: kept?.position ?? 0, at, drafted: 0, isEndWanted: false });
  }

  reserve(slot: KvSlot, drafted: number): boolean {
    const own = this.#slots.get(slot);
    if (!own) return true;
    const before = own.drafted;
    own.drafted = drafted;
    if (this.#promised <= this.#capacity) return true;
    own.drafted = before;
    return false;
  }

  begin(slot: KvSlot): void {
    const own = this.#slots.get(slot);
    if (!own) return;
    own.start = slot.numTokens;
    own.isEndWanted = true;
    own.drafted = 0;
    this.#keepOnly(own, (position) => position === slot.numTokens);
  }

  /** Returns the state in front of a slot's next token; `undefined` at position 0, and without recurrences. */
  before(slot: KvSlot): number | undefined {
    return this.#slots.get(slot)?.at.get(slot.numTokens);
  }

  /**
   * Assigns the states that a part of a step saves.
   *
   * @param positions - rising; the last one is the end of the part
   * @param isEndWanted - whether the slot may go back to that end in the middle of the step
   * @returns a number for each position; none without recurrences
   */
  save(slot: KvSlot, positions: readonly number[], isEndWanted: boolean): readonly number[] {
    const own = this.#slots.get(slot);
    if (!own) return [];
    const before = own.at.get(slot.numTokens);
    // A state in the middle of a step is needed no more, unless it was to be saved.
    const isMiddle = before !== undefined && !own.isEndWanted;
    own.isEndWanted = isEndWanted;
    return positions.map((position, index) => {
      const isReused = isMiddle && index === positions.length - 1 && this.#references[before] === 1;
      if (isReused) own.at.delete(slot.numTokens);
      const state = isReused ? before : this.#take();
      own.at.set(position, state);
      return state;
    });
  }

  /** Goes back to a position. @throws {RangeError} when the slot has no state there */
  truncate(slot: KvSlot, numTokens: number): void {
    const own = this.#slots.get(slot);
    if (!own) return;
    if (numTokens > 0 && !own.at.has(numTokens)) {
      const known = Array.from(own.at.keys()).join(", ");
      throw new RangeError(`Expected \`numTokens\` to be a position with a state, ${known}, got \`${numTokens}\``);
    }
    this.#keepOnly(own, (position) => position <= numTokens);
    own.start = Math.min(own.start, numTokens);
  }

  release(slot: KvSlot): void {
    const own = this.#slots.get(slot);
    if (own) this.#keepOnly(own, () => false);
    this.#slots.delete(slot);
  }

  keep(slot: KvSlot, position: number): KeptState | undefined {
    const state = this.#slots.get(slot)?.at.get(position);
    return state === undefined ? undefined : this.#addKept(position, state);
  }

  /** Keeps a state that its owner writes before it is used. */
  keepFresh(position: number): KeptState {
    const state = this.#take();
    this.#references[state] = 0;
    return this.#addKept(position, state);
  }

  /** Returns the number of a kept state. @throws {TypeError} for one that was dropped, or is another pool's */
  numberOf(kept: KeptState): number {
    const state = this.#kept.get(kept);
    if (state !== undefined) return state;
    throw new TypeError(`Expected a state that this pool keeps, got one of position ${kept.position}`);
  }

  drop(kept: KeptState): void {
    this.#remove(this.numberOf(kept));
    this.#kept.delete(kept);
  }

  /** Checks the counts. @throws {Error} with those that do not agree */
  checkIntegrity(): void {
    const counts = new Uint32Array(this.#references.length);
    for (const { at } of this.#slots.values()) for (const state of at.values()) counts[state]!++;
    for (const state of this.#kept.values()) counts[state]!++;
    const free = new Set(this.#free);
    for (const [state, count] of counts.entries()) {
      const found = `state ${state} is referred to ${count} times`;
      if (this.#references[state] !== count) throw new Error(`${found}, counted as ${this.#references[state]}`);
      if (free.has(state) !== (count === 0)) throw new Error(`${found}, free: ${free.has(state)}`);
    }
    for (const [slot, { at }] of this.#slots) {
      if (slot.numTokens > 0 && !at.has(slot.numTokens))
        throw new Error(`a slot of ${slot.numTokens} tokens has no state`);
    }
  }

  #addKept(position: number, state: number): KeptState {
    this.#add(state);
    const kept = { position, bytes: this.stateBytes };
    this.#kept.set(kept, state);
    return kept;
  }

  #keepOnly({ at }: SlotStates, isKept: (position: number) => boolean): void {
    for (const [position, state] of at) {
      if (isKept(position)) continue;
      at.delete(position);
      this.#remove(state);
    }
  }

  /** Takes a free state, for which kept ones are evicted where there is none. */
  #take(): number {
    for (;;) {
      const state = this.#free.pop();
      if (state !== undefined) {
        this.#add(state);
        return state;
      }
      if (!this.#evict()) throw new Error(`None of ${this.numStates} states is free`);
    }
  }

  #add(state: number): void {
    this.#references[state] = this.#references[state]! + 1;
  }

  #remove(state: number): void {
    this.#references[state] = this.#references[state]! - 1;
    if (this.#references[state] === 0) this.#free.push(state);
  }
}
