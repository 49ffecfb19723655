// The parts of a valid GGUF file, so that one of them can be wrong and all others right.

import { GGML_TYPES } from "../../packages/model/src/gguf/ggml-types.ts";
import { array, entry, handMadeGguf, type HandMadeTensor, text, u32, u64 } from "../../test/support/gguf-bytes.ts";
import type { Chance } from "../fuzz/chance.ts";
import { NUMBERS } from "./byte-damage.ts";

interface Entry {
  key: string;
  type: number;
  value: Buffer;
}

type Tensor = { -readonly [Name in keyof HandMadeTensor]: HandMadeTensor[Name] };

interface GgufParts {
  readonly entries: Entry[];
  readonly tensors: Tensor[];
}

/** Numbers of all ggml types, and of none. */
const TYPES = [...GGML_TYPES.keys(), 99];
const [BOOL, STRING, ARRAY] = [7, 8, 9];
const NUMBER_BYTES: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};

const parsed = new WeakMap<Buffer, GgufParts>();

/** Takes a valid file of whole floats apart. */
function partsOf(bytes: Buffer): GgufParts {
  const known = parsed.get(bytes);
  if (known !== undefined) return known;
  let at = 8;
  const take = (length: number): Buffer => bytes.subarray(at, (at += length));
  const number = (): number => Number(take(8).readBigUInt64LE());
  const name = (): string => take(number()).toString();
  const valueEnd = (type: number, from: number): number => {
    if (type === STRING) return from + 8 + Number(bytes.readBigUInt64LE(from));
    if (type !== ARRAY) return from + (NUMBER_BYTES[type] ?? 0);
    const inner = bytes.readUInt32LE(from);
    let end = from + 12;
    for (let left = Number(bytes.readBigUInt64LE(from + 4)); left > 0; left--) end = valueEnd(inner, end);
    return end;
  };
  const [numTensors, numEntries] = [number(), number()];
  const entries = Array.from({ length: numEntries }, (): Entry => {
    const key = name();
    const type = take(4).readUInt32LE();
    return { key, type, value: take(valueEnd(type, at) - at) };
  });
  const infos = Array.from({ length: numTensors }, () => {
    const tensor = name();
    const dimensions = Array.from({ length: take(4).readUInt32LE() }, number);
    return { name: tensor, dimensions, type: take(4).readUInt32LE(), offset: number() };
  });
  const start = Math.ceil(at / 32) * 32;
  const tensors = infos.map(({ offset, ...tensor }): Tensor => {
    const length = 4 * tensor.dimensions.reduce((product, size) => product * size, 1);
    return { ...tensor, data: bytes.subarray(start + offset, start + offset + length) };
  });
  const parts = { entries, tensors };
  parsed.set(bytes, parts);
  return parts;
}

function numberValue(chance: Chance): Pick<Entry, "type" | "value"> {
  const value = chance.pick(NUMBERS);
  return chance.happens(0.5)
    ? { type: 4, value: u32(Number(value & 0xffff_ffffn)) }
    : { type: chance.pick([10, 11]), value: u64(value) };
}

function floatValue(chance: Chance): Pick<Entry, "type" | "value"> {
  const value = Buffer.alloc(4);
  value.writeFloatLE(chance.pick([0, -1, NaN, Infinity, 1e-40, 3e38, 0.5]));
  return { type: 6, value };
}

const REGEXES = ["(x+x+)+y", "", "\u0000", "a".repeat(5000), "gpt2", "llama", "qwen3moe", "gemma3", "🙂", "__proto__"];

function anyValue(chance: Chance): Pick<Entry, "type" | "value"> {
  return chance.weighted<() => Pick<Entry, "type" | "value">>([
    [4, () => numberValue(chance)],
    [1, () => floatValue(chance)],
    [1, () => ({ type: STRING, value: text(chance.pick(REGEXES)) })],
    [1, () => ({ type: BOOL, value: Buffer.of(chance.below(3)) })],
    [1, () => ({ type: chance.below(14), value: chance.bytes(chance.below(20)) })],
    [1, () => ({ type: ARRAY, value: anyArray(chance) })],
  ])();
}

function anyArray(chance: Chance): Buffer {
  const type = chance.below(13);
  const count = chance.pick([0, 1, 3, 300, 4000]);
  if (type === STRING)
    return array(type, count, Buffer.concat(Array.from({ length: count }, (_, at) => text(`t${at}`))));
  if (type === ARRAY) return array(type, count, Buffer.alloc(12 * count));
  return array(
    type,
    chance.happens(0.8) ? count : chance.pick(NUMBERS),
    Buffer.alloc(count * (NUMBER_BYTES[type] ?? 1), chance.below(3)),
  );
}

/** Writes a list of strings with some of them changed. Lists that are damaged already stay as they are. */
function changedStrings(value: Buffer, chance: Chance): Buffer {
  if (value.length < 12 || value.readUInt32LE(0) !== STRING) return value;
  const count = Number(value.readBigUInt64LE(4));
  const texts: string[] = [];
  for (let [index, at] = [0, 12]; index < count; index++) {
    if (at + 8 > value.length) return value;
    const length = Number(value.readBigUInt64LE(at));
    texts.push(value.toString("utf8", at + 8, at + 8 + length));
    at += 8 + length;
  }
  if (texts.length === 0) return value;
  for (let left = chance.pick([1, 3, 50]); left > 0; left--) {
    const others = [
      chance.pick(texts),
      `${chance.pick(texts)} ${chance.pick(texts)}`,
      "",
      " ",
      "▁".repeat(900),
      "a b c",
    ];
    texts[chance.below(texts.length)] = chance.pick(others);
  }
  if (chance.happens(0.3)) texts.splice(chance.below(texts.length), chance.pick([1, 20]));
  return array(STRING, texts.length, ...texts.map(text));
}

/** Makes a file with one to three of its parts wrong. @param tokenizer - whether only keys of the tokenizer are damaged */
export function damagedGguf(bytes: Buffer, chance: Chance, tokenizer: boolean): Buffer {
  const whole = partsOf(bytes);
  const entries = whole.entries.map((one) => ({ ...one }));
  const tensors = whole.tensors.map((one) => ({ ...one }));
  const mine = entries.filter(({ key }) => !tokenizer || /^tokenizer|^general\.sampling/.test(key));
  for (let count = chance.pick([1, 1, 2, 3]); count > 0; count--) {
    const one = chance.pick(mine);
    const tensor = chance.pick(tensors);
    chance.weighted<() => void>([
      [6, () => Object.assign(one, anyValue(chance))],
      [3, () => void entries.splice(entries.indexOf(one), 1)],
      [1, () => void entries.push({ ...one, ...(chance.happens(0.5) ? {} : anyValue(chance)) })],
      [2, () => void (one.key = chance.pick([chance.pick(entries).key, `${one.key}x`, "general.architecture"]))],
      [tokenizer ? 6 : 1, () => void (one.type === ARRAY && (one.value = changedStrings(one.value, chance)))],
      [
        tokenizer ? 0 : 2,
        () =>
          void (tensor.dimensions = tensor.dimensions.map((size) =>
            chance.happens(0.5) ? chance.pick(NUMBERS) : size,
          )),
      ],
      [tokenizer ? 0 : 1, () => void (tensor.dimensions = [...tensor.dimensions, 1].slice(chance.below(3)))],
      [tokenizer ? 0 : 2, () => void (tensor.type = chance.pick(TYPES))],
      [tokenizer ? 0 : 1, () => void (tensor.offset = chance.pick(NUMBERS))],
      [tokenizer ? 0 : 2, () => void tensors.splice(tensors.indexOf(tensor), 1)],
      [
        tokenizer ? 0 : 1,
        () =>
          void (tensor.name = chance.pick([chance.pick(tensors).name, "output.weight", "blk.999999999.attn_q.weight"])),
      ],
    ])();
    if (mine.length === 0 || tensors.length === 0) break;
  }
  const counts = chance.happens(0.03) ? { numTensors: chance.pick(NUMBERS), numEntries: chance.pick(NUMBERS) } : {};
  const written = entries.map(({ key, type, value }) => entry(key, type, value));
  return handMadeGguf({ version: chance.happens(0.01) ? chance.below(5) : 3, entries: written, tensors, ...counts })
    .bytes;
}
