// States of sequences under random operations, against lists of what every holder has.

import { StatePool } from "../../../packages/kernel/src/kv/state-pool.ts";
import type { KeptState, KvSlot } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { randomInteger, seededRandom } from "../../support/random.ts";

/** A slot, with the contents that its states should have by position: the history of tokens before it. */
interface Running {
  readonly slot: { numTokens: number; readonly reservedTokens: number };
  tokens: string;
  /** Positions that the slot can go back to. */
  known: number[];
}

const BYTES = 10;

test("a state is never written while another place may read it, and none is lost", () => {
  for (let seed = 0; seed < 40; seed++) {
    const random = seededRandom(seed);
    const kept = new Map<KeptState, string>();
    const evict = (): boolean => {
      const [oldest] = kept.keys();
      if (oldest === undefined) return false;
      kept.delete(oldest);
      pool.drop(oldest);
      return true;
    };
    const pool = new StatePool(BYTES, 14, randomInteger(random, 4), evict);
    // What the kernel's memory would hold: of each state, the tokens that it has seen.
    const memory = Array.from({ length: pool.numStates }, () => "");
    const all = new Set<Running>();
    for (let turn = 0; turn < 300; turn++) {
      const one = [...all][randomInteger(random, Math.max(1, all.size))];
      const choice = random();
      if (!one || choice < 0.15) {
        if (!pool.hasRoom) continue;
        const [state, tokens] = [...kept][randomInteger(random, kept.size + 1)] ?? [];
        const slot = { numTokens: state?.position ?? 0, reservedTokens: 1000 };
        pool.admit(slot, state);
        all.add({ slot, tokens: tokens ?? "", known: [slot.numTokens] });
      } else if (choice < 0.25) {
        pool.release(one.slot);
        all.delete(one);
      } else if (choice < 0.35) {
        const position = one.known[randomInteger(random, one.known.length)]!;
        const state = pool.keep(one.slot, position);
        expect(state === undefined).toBe(position === 0);
        if (state) kept.set(state, one.tokens.slice(0, position));
      } else if (choice < 0.45) {
        const [state] = [...kept][randomInteger(random, kept.size)] ?? [];
        if (!state) continue;
        kept.delete(state);
        pool.drop(state);
      } else if (choice < 0.55) {
        const position = one.known[randomInteger(random, one.known.length)]!;
        pool.truncate(one.slot, position);
        one.slot.numTokens = position;
        one.tokens = one.tokens.slice(0, position);
        one.known = one.known.filter((other) => other <= position);
        const unknown = position + 1;
        if (!one.known.includes(unknown)) expect(() => pool.truncate(one.slot, unknown)).toThrow(RangeError);
      } else step(one, pool, memory, random);
      pool.checkIntegrity();
      for (const [state, tokens] of kept) expect(memory[pool.numberOf(state)]).toBe(tokens);
      for (const { slot, tokens } of all) {
        const state = pool.before(slot);
        if (slot.numTokens > 0) expect(memory[state!]).toBe(tokens);
        else expect(state).toBeUndefined();
      }
    }
    for (const { slot } of all) pool.release(slot);
    while (evict());
    pool.checkIntegrity();
  }
});

/** Runs tokens in one or two parts, some of them drafts behind each of which the state is saved. */
function step(one: Running, pool: StatePool, memory: string[], random: () => number): void {
  const { slot } = one;
  const drafts = random() < 0.4 ? 1 + randomInteger(random, 3) : 0;
  const isDrafting = drafts > 0 && pool.reserve(slot, drafts);
  pool.begin(slot);
  const start = slot.numTokens;
  const count = 1 + randomInteger(random, 4) + (isDrafting ? drafts : 0);
  const split = randomInteger(random, count);
  const marks = isDrafting ? Array.from({ length: drafts }, (_, index) => start + count - drafts + index) : [];
  for (const end of new Set([start + (split || count), start + count])) {
    const source = pool.before(slot);
    const before = source === undefined ? "" : memory[source]!;
    const positions = [...marks.filter((mark) => mark > slot.numTokens && mark < end), end];
    const states = pool.save(slot, positions, marks.includes(end));
    expect(new Set(states).size).toBe(states.length);
    // Only the last state of a part may take the place of the one in front of it.
    expect(states.slice(0, -1)).not.toContain(source);
    while (one.tokens.length < end) one.tokens += String.fromCharCode(97 + randomInteger(random, 26));
    expect(before).toBe(one.tokens.slice(0, slot.numTokens));
    for (const [index, state] of states.entries()) memory[state] = one.tokens.slice(0, positions[index]);
    slot.numTokens = end;
  }
  one.known = [start, ...marks.filter((mark) => mark > start), start + count];
}

test("slots find their states, whatever is kept", () => {
  const kept: KeptState[] = [];
  const pool = new StatePool(BYTES, 4, 1, () => {
    const oldest = kept.shift();
    if (oldest) pool.drop(oldest);
    return oldest !== undefined;
  });
  const slots = [0, 1].map((): { numTokens: number; reservedTokens: number } => ({ numTokens: 0, reservedTokens: 9 }));
  for (const slot of slots) pool.admit(slot);
  expect(pool.hasRoom).toBe(false);
  expect(pool.reserve(slots[0] as KvSlot, 1)).toBe(false);
  for (let position = 1; position < 9; position++) {
    for (const slot of slots) {
      pool.begin(slot);
      pool.save(slot, [position], false);
      slot.numTokens = position;
      const state = pool.keep(slot, position);
      if (state) kept.push(state);
    }
  }
  pool.checkIntegrity();
  expect(() => pool.drop({ position: 1, bytes: BYTES })).toThrow(TypeError);
});
