import type { RouteInput, RouterState } from "@readme-moe/core";
import { KvPool, type KvShape, type ArenaSlot, type StepTokens } from "@readme-moe/model";

const FIRST_CAPACITY_TOKENS = 4096;

/** The router's own keys and values of one sequence, so that a new token costs one token. */
export class GraphRouterState implements RouterState {
  /** `undefined` before the first token, and after the last. */
  slot: ArenaSlot | undefined;

  get numTokens(): number {
    return this.slot?.numTokens ?? 0;
  }
}

/**
 * Keys and values of all sequences that a router knows. A router's are small next to its model's (one layer, a few kB
 * a token), and it has to know every sequence that waits, so this memory grows as needed.
 */
export class RouterMemory {
  readonly #shape: KvShape;
  readonly #states = new Set<GraphRouterState>();
  #pool: KvPool;

  constructor(shape: KvShape) {
    this.#shape = shape;
    this.#pool = new KvPool({ shape, capacityTokens: FIRST_CAPACITY_TOKENS });
  }

  /** Replaced when it has to grow. */
  get pool(): KvPool {
    return this.#pool;
  }

  /** Makes room for each input's tokens. @returns their slots, valid until the next call */
  reserve(states: readonly GraphRouterState[], inputs: readonly RouteInput[]): readonly StepTokens[] {
    const wanted = states.map((state, index) => state.numTokens + (inputs[index]?.tokenIds.length ?? 0));
    let capacityTokens = this.#pool.capacityTokens;
    while (!states.every((state, index) => this.#reserveOne(state, wanted[index] as number))) {
      capacityTokens *= 2;
      this.#growTo(capacityTokens);
    }
    return states.map(({ slot }, index) => ({ slot: slot as ArenaSlot, tokenIds: inputs[index]?.tokenIds ?? [] }));
  }

  release(state: GraphRouterState): void {
    if (state.slot) this.#pool.release(state.slot);
    state.slot = undefined;
    this.#states.delete(state);
    // Those that run should stand side by side, so that a step of theirs is a plain one.
    this.#pool.compact();
  }

  #reserveOne(state: GraphRouterState, numTokens: number): boolean {
    if (state.slot) return this.#pool.reserve(state.slot, numTokens);
    state.slot = this.#pool.admit(numTokens);
    if (state.slot) this.#states.add(state);
    return state.slot !== undefined;
  }

  /** Moves everybody into a larger pool; leaves the pool as it is when they do not fit there side by side. */
  #growTo(capacityTokens: number): void {
    const grown = new KvPool({ shape: this.#shape, capacityTokens });
    const moved = new Map<GraphRouterState, ArenaSlot>();
    for (const state of this.#states) {
      const old = state.slot as ArenaSlot;
      const slot = grown.admit(old.reservedTokens);
      if (!slot) return;
      grown.writeBlock(slot, 0, this.#pool.readBlock(old, 0, old.numTokens));
      moved.set(state, slot);
    }
    for (const [state, slot] of moved) state.slot = slot;
    this.#pool = grown;
  }
}
