// Codes small integers in about as few bytes as their entropy: range coding by an asymmetric numeral system (rANS). The
// likelihood of a value depends on the magnitude of the values before it.

import {
  contextAfter,
  contextOf,
  ESCAPE,
  FREQUENCY_BITS,
  NUM_SYMBOLS,
  START_CONTEXT_STATE,
  symbolOf,
  valueOf,
  type SymbolTables,
} from "./integer-codes.ts";

// A state fits into a small integer of the JavaScript engine, with a byte to spare above the lowest state.
const LOWEST_STATE = 2 ** 22;
const HIGHEST_STATE = 2 ** 30;
const SLOT_MASK = 2 ** FREQUENCY_BITS - 1;
// An escaped value follows as two bytes, all equally likely.
const RAW_BITS = 8;
const HEAD_BYTES = 4;

/** Encodes values for `decodeValues`, which also needs `tables` and the number of values. */
export function encodeValues(values: Int16Array, { starts, frequencies }: SymbolTables): Uint8Array {
  const entries = new Uint16Array(values.length);
  let context = START_CONTEXT_STATE;
  for (const [index, value] of values.entries()) {
    entries[index] = contextOf(context) * NUM_SYMBOLS + symbolOf(value);
    context = contextAfter(context, value);
  }
  // A symbol takes at most its frequency bits; an escape takes twice as much again.
  const buffer = new Uint8Array(4 * values.length + 2 * HEAD_BYTES);
  let at = buffer.length;
  let state = LOWEST_STATE;
  const flush = (limit: number): void => {
    while (state >= limit) {
      buffer[--at] = state & 0xff;
      state >>= 8;
    }
  };
  // The decoder reads the first value first, so the encoder writes it last.
  for (let i = values.length - 1; i >= 0; i--) {
    const entry = entries[i] ?? 0;
    if (entry % NUM_SYMBOLS === ESCAPE) {
      const value = values[i] ?? 0;
      for (const byte of [(value >> 8) & 0xff, value & 0xff]) {
        flush(HIGHEST_STATE >> RAW_BITS);
        state = (state << RAW_BITS) | byte;
      }
    }
    const frequency = frequencies[entry] ?? 1;
    flush((HIGHEST_STATE >> FREQUENCY_BITS) * frequency);
    const quotient = (state / frequency) | 0;
    state = (quotient << FREQUENCY_BITS) + (state - quotient * frequency) + (starts[entry] ?? 0);
  }
  for (let byte = 0; byte < HEAD_BYTES; byte++) buffer[--at] = (state >> (8 * byte)) & 0xff;
  return buffer.slice(at);
}

/**
 * Decodes `count` values.
 *
 * @returns `undefined` where `bytes` are not what `encodeValues` made of that many values
 */
export function decodeValues(bytes: Uint8Array, count: number, tables: SymbolTables): Int16Array | undefined {
  const { starts, frequencies, symbols } = tables;
  const { length } = bytes;
  if (length < HEAD_BYTES) return undefined;
  let state = new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, false);
  if (state < LOWEST_STATE || state >= HIGHEST_STATE) return undefined;
  let at = HEAD_BYTES;
  const values = new Int16Array(count);
  // Beyond the end, `at` goes on growing, which the last line notices.
  for (let i = 0, contextState = START_CONTEXT_STATE; i < count && at <= length; i++) {
    const slot = state & SLOT_MASK;
    const context = contextOf(contextState);
    const symbol = symbols[(context << FREQUENCY_BITS) | slot] ?? 0;
    const entry = context * NUM_SYMBOLS + symbol;
    state = (frequencies[entry] ?? 0) * (state >> FREQUENCY_BITS) + slot - (starts[entry] ?? 0);
    while (state < LOWEST_STATE) state = (state << 8) | (bytes[at++] ?? 0xff);
    let value = valueOf(symbol);
    if (symbol === ESCAPE) {
      value = 0;
      for (let shift = 0; shift < 2 * RAW_BITS; shift += RAW_BITS) {
        value |= (state & 0xff) << shift;
        state >>= RAW_BITS;
        while (state < LOWEST_STATE) state = (state << 8) | (bytes[at++] ?? 0xff);
      }
      value = (value << 16) >> 16;
    }
    values[i] = value;
    contextState = contextAfter(contextState, value);
  }
  return at === length && state === LOWEST_STATE ? values : undefined;
}
