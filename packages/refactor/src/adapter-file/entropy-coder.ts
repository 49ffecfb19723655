// Small integers as bytes, about as few as their entropy: range coding by an asymmetric numeral system (rANS). How likely
// a value is depends on how large the values before it were, so that rows of small numbers cost little.

import { contextAfter, START_CONTEXT_STATE, contextOf } from "./contexts.ts";
import { ESCAPE, FREQUENCY_BITS, NUM_SYMBOLS, symbolOf, type SymbolTables, valueOf } from "./symbols.ts";

// A state fits into a small integer of the engine, with a byte to spare above the lowest.
const LOWEST_STATE = 2 ** 22;
const HIGHEST_STATE = 2 ** 30;
const SLOT_MASK = 2 ** FREQUENCY_BITS - 1;
// An escaped value follows as two bytes that are all equally likely.
const RAW_BITS = 8;
const HEAD_BYTES = 4;

/** @returns what `decodeValues` needs beside `tables` and the number of values */
export function encodeValues(values: Int16Array, tables: SymbolTables): Uint8Array {
  const { starts, frequencies } = tables;
  const entries = new Uint16Array(values.length);
  for (let i = 0, state = START_CONTEXT_STATE; i < values.length; i++) {
    const value = values[i] as number;
    entries[i] = contextOf(state) * NUM_SYMBOLS + symbolOf(value);
    state = contextAfter(state, value);
  }
  // Nothing takes more than its frequency bits, or with those of an escape twice as much again.
  const buffer = new Uint8Array(4 * values.length + 2 * HEAD_BYTES);
  let at = buffer.length;
  let state = LOWEST_STATE;
  // What is decoded first is encoded last.
  for (let i = values.length - 1; i >= 0; i--) {
    const entry = entries[i] as number;
    if (entry % NUM_SYMBOLS === ESCAPE) {
      const value = values[i] as number;
      for (const byte of [(value >> 8) & 0xff, value & 0xff]) {
        while (state >= HIGHEST_STATE >> RAW_BITS) {
          buffer[--at] = state & 0xff;
          state >>= 8;
        }
        state = (state << RAW_BITS) | byte;
      }
    }
    const frequency = frequencies[entry] as number;
    const limit = (HIGHEST_STATE >> FREQUENCY_BITS) * frequency;
    while (state >= limit) {
      buffer[--at] = state & 0xff;
      state >>= 8;
    }
    const quotient = (state / frequency) | 0;
    state = (quotient << FREQUENCY_BITS) + (state - quotient * frequency) + (starts[entry] as number);
  }
  for (let byte = 0; byte < HEAD_BYTES; byte++) buffer[--at] = (state >> (8 * byte)) & 0xff;
  return buffer.slice(at);
}

/**
 * @param count - how many values were encoded
 * @returns `undefined` where `bytes` are not what `encodeValues` made of so many values
 */
export function decodeValues(bytes: Uint8Array, count: number, tables: SymbolTables): Int16Array | undefined {
  const { starts, frequencies, symbols } = tables;
  const { length } = bytes;
  if (length < HEAD_BYTES) return undefined;
  let state = new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, false);
  if (state < LOWEST_STATE || state >= HIGHEST_STATE) return undefined;
  let at = HEAD_BYTES;
  const values = new Int16Array(count);
  for (let i = 0, contextState = START_CONTEXT_STATE; i < count; i++) {
    const slot = state & SLOT_MASK;
    const context = contextOf(contextState);
    const symbol = symbols[(context << FREQUENCY_BITS) | slot] as number;
    const entry = context * NUM_SYMBOLS + symbol;
    state = (frequencies[entry] as number) * (state >> FREQUENCY_BITS) + slot - (starts[entry] as number);
    while (state < LOWEST_STATE) {
      if (at >= length) return undefined;
      state = (state << 8) | (bytes[at++] as number);
    }
    let value = valueOf(symbol);
    if (symbol === ESCAPE) {
      value = 0;
      for (let shift = 0; shift < 2 * RAW_BITS; shift += RAW_BITS) {
        value |= (state & 0xff) << shift;
        state >>= RAW_BITS;
        while (state < LOWEST_STATE) {
          if (at >= length) return undefined;
          state = (state << 8) | (bytes[at++] as number);
        }
      }
      value = (value << 16) >> 16;
    }
    values[i] = value;
    contextState = contextAfter(contextState, value);
  }
  return at === length && state === LOWEST_STATE ? values : undefined;
}
