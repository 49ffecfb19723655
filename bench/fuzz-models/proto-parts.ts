// An ONNX file as a tree of protobuf fields, so that lengths stay right where something within is wrong.

import type { Chance } from "../fuzz/chance.ts";
import { NUMBERS } from "./byte-damage.ts";

interface Field {
  number: number;
  wire: number;
  /** Value of a varint. */
  value?: bigint;
  bytes?: Buffer;
  inner?: Field[];
}

/** Fields that are messages, by the path of numbers that leads to them: graph, node, attribute, tensor, value. */
const MESSAGES: ReadonlySet<string> = new Set(["7", "7.1", "7.1.5", "7.1.5.5", "7.5", "7.5.13", "7.11", "7.12"]);

function parse(bytes: Buffer, path: string): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++] ?? 0;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const [number, wire] = [tag >> 3, tag & 7];
    if (wire === 0) {
      fields.push({ number, wire, value: varint() });
      continue;
    }
    const length = wire === 1 ? 8 : wire === 5 ? 4 : Number(varint());
    const content = bytes.subarray(at, (at += length));
    const own = path === "" ? `${number}` : `${path}.${number}`;
    if (wire === 2 && MESSAGES.has(own)) fields.push({ number, wire, inner: parse(content, own) });
    else fields.push({ number, wire, bytes: content });
  }
  return fields;
}

function encodeVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let left = BigInt.asUintN(64, value);
  for (; left > 127n; left >>= 7n) bytes.push(Number(left & 127n) | 128);
  return Buffer.from([...bytes, Number(left)]);
}

function encode(fields: readonly Field[]): Buffer {
  return Buffer.concat(
    fields.flatMap(({ number, wire, value, bytes, inner }) => {
      const tag = encodeVarint(BigInt(number * 8 + wire));
      if (wire === 0) return [tag, encodeVarint(value ?? 0n)];
      const content = inner ? encode(inner) : (bytes ?? Buffer.alloc(0));
      return wire === 2 ? [tag, encodeVarint(BigInt(content.length)), content] : [tag, content];
    }),
  );
}

const parsed = new WeakMap<Buffer, readonly Field[]>();

function treeOf(bytes: Buffer): Field[] {
  const known = parsed.get(bytes) ?? parse(bytes, "");
  parsed.set(bytes, known);
  return known.map(copyOf);
}

/** Copies a field; content is shared, since it is replaced and never changed. */
function copyOf(field: Field): Field {
  return { ...field, ...(field.inner ? { inner: field.inner.map(copyOf) } : {}) };
}

/** Draws a list of fields: that of the file, of the graph, of a node, and so on. */
function anyList(fields: Field[], chance: Chance): Field[] {
  const inner = fields.filter((field) => field.inner !== undefined);
  if (inner.length === 0 || chance.happens(0.2)) return fields;
  return anyList(chance.pick(inner).inner ?? fields, chance);
}

/** Makes a file with one to three of its fields wrong. */
export function damagedOnnx(bytes: Buffer, chance: Chance): Buffer {
  const tree = treeOf(bytes);
  for (let count = chance.pick([1, 1, 2, 3]); count > 0; count--) {
    const list = anyList(tree, chance);
    if (list.length === 0) continue;
    const index = chance.below(list.length);
    const field = list[index] as Field;
    chance.weighted<() => void>([
      [
        4,
        () => void (field.wire === 0 ? (field.value = chance.pick(NUMBERS)) : (field.bytes = changed(field, chance))),
      ],
      [3, () => void list.splice(index, 1)],
      [2, () => void list.push(copyOf(field))],
      [1, () => void list.splice(index, 0, ...Array.from({ length: copiesOf(field, chance) }, () => copyOf(field)))],
      [1, () => void (field.number = chance.pick([1, 2, 3, 5, 7, 8, 11, 12, 14, 15, 25, 500]))],
      [1, () => void Object.assign(field, { wire: 0, value: chance.pick(NUMBERS) })],
      [1, () => void list.push({ number: chance.pick([1, 5, 7, 8]), wire: 0, value: chance.pick(NUMBERS) })],
    ])();
  }
  return encode(tree);
}

const MAX_COPIED_BYTES = 2_000_000;

function copiesOf(field: Field, chance: Chance): number {
  return Math.min(chance.pick([2, 50, 2000]), Math.ceil(MAX_COPIED_BYTES / encode([field]).length));
}

function changed(field: Field, chance: Chance): Buffer {
  const bytes = field.bytes ?? encode(field.inner ?? []);
  delete field.inner;
  field.wire = 2;
  const text = bytes.toString("latin1");
  return Buffer.from(
    chance.pick([
      text.slice(1),
      `${text}0`,
      "",
      "input_ids",
      "logits",
      "present.0.key",
      "MatMul",
      "Split",
      "\xff\xfe",
      text.repeat(3),
    ]),
    "latin1",
  );
}
