import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { GgufTensorStore } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { SafetensorsFile, ShardedSafetensors } from "../../packages/model/src/safetensors/safetensors-file.ts";
import { checkReading, readAllWith, readDamaged, withByte, wrongValues } from "../support/damage.ts";
import {
  array,
  entry,
  handMadeGguf,
  type HandMadeGguf,
  text,
  textEntry,
  u32,
  u32Entry,
  u64,
  u8,
} from "../support/gguf-bytes.ts";
import { ggmlNameOf } from "../support/gguf/convert-model.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomBlocks } from "../support/plain-blocks.ts";
import { safetensorsBytes } from "../support/safetensors-bytes.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

function nested(depth: number): string {
  return "[".repeat(depth) + "]".repeat(depth);
}

function evilTensor(fields: string): string {
  return `{"evil":{${fields}}}`;
}

const readSafetensors = readAllWith((path) => SafetensorsFile.open(path));
const readSharded = readAllWith((path) => ShardedSafetensors.open(path));
// Messages contain the file's names.
const readGguf = readAllWith((path) => GgufTensorStore.open(path), ggmlNameOf);

const U64_MAX = 2n ** 64n - 1n;

/** Share of the wrong values of each byte of a header that are tried, other ones of the next byte. */
const EVERY = RUNS_LONG_TESTS ? 1 : 3;
const triedValues = (value: number, at: number): readonly number[] =>
  wrongValues(value).filter((_, index) => (index + at) % EVERY === 0);

describe("a damaged safetensors file", () => {
  const header = {
    __metadata__: { format: "pt" },
    weight: { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] },
    half: { dtype: "BF16", shape: [4], data_offsets: [24, 32] },
    empty: { dtype: "F16", shape: [0, 7], data_offsets: [32, 32] },
    scalar: { dtype: "F64", shape: [], data_offsets: [32, 40] },
  };
  const whole = safetensorsBytes(header, new Uint8Array(40));
  const headerEnd = whole.byteLength - 40;

  test("is read while it is whole", async () => {
    const path = join(await temporaryFolder(), "x.safetensors");
    expect(await readDamaged(path, whole, readSafetensors)).toEqual([]);
  });

  test("is refused by name when it is cut, wherever", async () => {
    const path = join(await temporaryFolder(), "x.safetensors");
    for (let size = 0; size < whole.byteLength; size++) {
      expect(await readDamaged(path, whole.subarray(0, size), readSafetensors)).toHaveLength(1);
    }
  });

  test("is refused by name, or harmless, when any byte of its header is wrong", async () => {
    const path = join(await temporaryFolder(), "x.safetensors");
    let numRefused = 0;
    let numHarmless = 0;
    for (let at = 0; at < headerEnd; at++) {
      for (const wrong of triedValues(whole[at] ?? 0, at)) {
        const problems = await readDamaged(path, withByte(whole, at, wrong), readSafetensors);
        if (at < 8) expect(problems).not.toEqual([]);
        if (problems.length === 0) numHarmless += 1;
        else numRefused += 1;
      }
    }
    // Letters of names can be others; most of a header cannot.
    expect(numRefused).toBeGreaterThan(1500 / EVERY);
    expect(numHarmless).toBeGreaterThan(100 / EVERY);
  });

  const one = '"dtype":"U8","shape":[1]';

  test.each([
    ["a gap before it", evilTensor(`${one},"data_offsets":[7,8]`), '"evil"'],
    ["an end beyond the file", evilTensor('"dtype":"U8","shape":[9],"data_offsets":[0,9]'), '"evil"'],
    ["an end beyond 2^53", evilTensor(`${one},"data_offsets":[0,9007199254740993]`), '"evil"'],
    ["an end before its begin", evilTensor(`${one},"data_offsets":[8,7]`), '"evil"'],
    ["a negative begin", evilTensor(`${one},"data_offsets":[-1,8]`), '"evil"'],
    ["offsets with fractions", evilTensor(`${one},"data_offsets":[0.5,1.5]`), '"evil"'],
    ["one offset", evilTensor(`${one},"data_offsets":[8]`), '"evil"'],
    ["three offsets", evilTensor(`${one},"data_offsets":[0,8,8]`), '"evil"'],
    ["offsets that are text", evilTensor(`${one},"data_offsets":"08"`), '"evil"'],
    ["a length that its shape does not have", evilTensor('"dtype":"F32","shape":[3],"data_offsets":[0,8]'), '"evil"'],
    [
      "a shape whose product overflows to its length",
      evilTensor('"dtype":"U8","shape":[4294967296,4294967296,8],"data_offsets":[0,8]'),
      '"evil"',
    ],
    ["a shape beyond 2^53", evilTensor('"dtype":"U8","shape":[18446744073709551616,0],"data_offsets":[0,0]'), '"evil"'],
    ["a shape of text", evilTensor('"dtype":"U8","shape":["8"],"data_offsets":[0,8]'), '"evil"'],
    ["an unknown type", evilTensor('"dtype":"U9","shape":[8],"data_offsets":[0,8]'), '"evil"'],
    ["a type that is a number", evilTensor('"dtype":8,"shape":[8],"data_offsets":[0,8]'), '"evil"'],
    ["no shape", evilTensor('"dtype":"U8","data_offsets":[0,8]'), '"evil"'],
    ["a shape twice", evilTensor('"dtype":"U8","shape":[1],"shape":[8],"data_offsets":[0,8]'), "a key twice"],
    ["null in its place", '{"evil":null}', '"evil"'],
    ["arrays of arrays", evilTensor(`"dtype":"U8","shape":${nested(50_000)},"data_offsets":[0,8]`), "deeper than 100"],
    ["a deep unknown field", evilTensor(`"dtype":"U8","x":${nested(50_000)}`), "deeper than 100"],
    ["an endless number", evilTensor(`"dtype":"U8","shape":[${"9".repeat(1_000_000)}],"data_offsets":[0,8]`), '"evil"'],
    ["a long unfinished type", `{"evil":{"dtype":"${"a".repeat(3_000_000)}`, "header"],
  ])("is refused when a tensor has %s", async (_, json, part) => {
    const path = join(await temporaryFolder(), "x.safetensors");
    const problems = await readDamaged(path, safetensorsBytes(json, new Uint8Array(8)), readSafetensors);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(part);
  });

  const first = '{"dtype":"U8","shape":[5],"data_offsets":[0,5]}';
  const second = '{"dtype":"U8","shape":[3],"data_offsets":[5,8]}';

  test.each([
    [
      "tensors that overlap",
      `{"a":${first},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`,
      '"b" overlaps tensor "a"',
    ],
    [
      "a gap between tensors",
      `{"a":${first},"b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}}`,
      '"b" leaves a gap after tensor "a"',
    ],
    ["data after its tensors", `{"a":${first}}`, "3 bytes after"],
    ["a tensor twice", `{"a":${first},"a":${second}}`, "a key twice"],
    ["a tensor twice, once in disguise", String.raw`{"a":${first},"\u0061":${second}}`, "a key twice"],
    ["metadata that is a number", `{"__metadata__":{"x":1},"a":${first},"b":${second}}`, "__metadata__"],
    ["an array for a header", `[${first}]`, "header"],
    ["a byte order mark", `\uFEFF{"a":${first},"b":${second}}`, "header"],
    ["text after its header", `{"a":${first},"b":${second}} x`, "header"],
    ["a comma too many", `{"a":${first},"b":${second},}`, "header"],
    ["a name in no quotes", `{a:${first},"b":${second}}`, "header"],
    ["a line break in a name", `{"a\n":${first},"b":${second}}`, "header"],
    ["no header", "", "header"],
  ])("is refused when it has %s", async (_, json, part) => {
    const path = join(await temporaryFolder(), "x.safetensors");
    const problems = await readDamaged(path, safetensorsBytes(json, new Uint8Array(8)), readSafetensors);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(part);
  });

  test.each([2n ** 63n, U64_MAX, 2n ** 53n, 2n ** 32n, 1000n])(
    "is refused when it claims a header of %s bytes",
    async (length) => {
      const path = join(await temporaryFolder(), "x.safetensors");
      const problems = await readDamaged(path, Buffer.concat([u64(length), Buffer.from("{}")]), readSafetensors);
      expect(problems).toHaveLength(1);
      expect(problems[0]).toContain(String(length));
    },
  );

  test("is refused, without reading it, when its header is beyond 32 MB", async () => {
    const path = join(await temporaryFolder(), "x.safetensors");
    await writeFile(path, u64(150_000_000));
    await truncate(path, 200_000_000);
    expect(await checkReading(path, 0, readSafetensors)).toEqual([expect.stringContaining("33554432")]);
  });

  test.each(["../x.safetensors", "/x.safetensors", "..\\x.safetensors", "x.safetensors\0", "a/../../x.safetensors"])(
    "is not even opened when an index calls it %j",
    async (name) => {
      const path = join(await temporaryFolder(), "model.safetensors.index.json");
      const index = Buffer.from(JSON.stringify({ weight_map: { weight: name } }));
      const problems = await readDamaged(path, index, readSharded);
      expect(problems).toHaveLength(1);
      expect(problems[0]).toContain('"weight"');
    },
  );
});

describe("a damaged GGUF file", () => {
  const architecture = textEntry("general.architecture", "llama");
  const file: HandMadeGguf = {
    entries: [
      architecture,
      u32Entry("llama.attention.head_count", 2),
      u32Entry("general.alignment", 32),
      entry("words", 9, array(8, 2, text("a"), text("bc"))),
      entry("nested", 9, array(9, 2, array(0, 2, u8(1, 2)), array(7, 1, u8(1)))),
      entry("wide", 10, u64(5)),
    ],
    tensors: [
      { name: "blk.0.attn_q.weight", dimensions: [32, 4], type: 8, data: randomBlocks(4, 34, 1, 1) },
      { name: "x", dimensions: [32, 2], type: 3, data: randomBlocks(2, 20, 2, 2) },
      { name: "y", dimensions: [2], type: 0, data: new Uint8Array(8) },
    ],
  };
  const { bytes: whole, headerBytes } = handMadeGguf(file);

  test("is read while it is whole", async () => {
    const path = join(await temporaryFolder(), "x.gguf");
    expect(await readDamaged(path, whole, readGguf)).toEqual([]);
  });

  test("is refused by name when it is cut, wherever before its last value", async () => {
    const path = join(await temporaryFolder(), "x.gguf");
    const lastValueEnd = whole.byteLength - (32 - 8);
    for (let size = 0; size < whole.byteLength; size++) {
      expect(await readDamaged(path, whole.subarray(0, size), readGguf)).toHaveLength(size < lastValueEnd ? 1 : 0);
    }
  });

  test("is refused by name, or harmless, when any byte of its header is wrong", async () => {
    const path = join(await temporaryFolder(), "x.gguf");
    let numRefused = 0;
    let numHarmless = 0;
    for (let at = 0; at < headerBytes; at++) {
      for (const wrong of triedValues(whole[at] ?? 0, at)) {
        const problems = await readDamaged(path, withByte(whole, at, wrong), readGguf);
        // Version 2 is a good one, and a file may hold more than its counts say.
        if (at < 4) expect(problems).not.toEqual([]);
        if (problems.length === 0) numHarmless += 1;
        else numRefused += 1;
      }
    }
    expect(numRefused).toBeGreaterThan(2000 / EVERY);
    expect(numHarmless).toBeGreaterThan(500 / EVERY);
  });

  const hostile: readonly [string, HandMadeGguf, string][] = [
    ["2^63 tensors", { numTensors: 2n ** 63n }, "tensors"],
    ["2^63 metadata entries", { numEntries: 2n ** 63n }, "metadata entries"],
    ["a million tensors", { numTensors: 1_000_000 }, "1000000 tensors"],
    ["a key of 2^63 bytes", { entries: [Buffer.concat([u64(2n ** 63n), u32(0)])] }, "metadata entry 0"],
    ["a key twice", { entries: [u32Entry("evil", 1), u32Entry("evil", 1)] }, '"evil"'],
    ["a key that is no UTF-8", { entries: [Buffer.concat([u64(1), u8(0xff), u32(0), u8(0, 0)])] }, "UTF-8"],
    ["a string of 2^64 - 1 bytes", { entries: [entry("evil", 8, u64(U64_MAX))] }, '"evil"'],
    ["a string beyond the file", { entries: [entry("evil", 8, u64(1000))] }, '"evil"'],
    ["a boolean that is 2", { entries: [entry("evil", 7, u8(2))] }, '"evil"'],
    ["a value of type 13", { entries: [entry("evil", 13, u64(0))] }, '"evil"'],
    ["an array of type 13", { entries: [entry("evil", 9, array(13, 1, u64(0)))] }, '"evil"'],
    [
      "arrays a thousand deep",
      { entries: [entry("evil", 9, ...Array.from({ length: 1000 }, () => array(9, 1)))] },
      '"evil"',
    ],
    ["the wrong alignment", { entries: [u32Entry("general.alignment", 33)] }, "general.alignment"],
    ...[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].flatMap((type) =>
      [2n ** 63n, U64_MAX, 2n ** 61n, 2n ** 40n, 1000n].map((length): [string, HandMadeGguf, string] => [
        `an array of ${length} values of type ${type}`,
        { entries: [entry("evil", 9, array(type, length, u64(0)))] },
        '"evil"',
      ]),
    ),
  ];
  const evil = { name: "evil", dimensions: [1], type: 0, data: new Uint8Array(4) };
  const hostileTensors: readonly [string, HandMadeGguf["tensors"]][] = [
    ["five dimensions", [{ ...evil, dimensions: [1, 1, 1, 1, 1] }]],
    ["2^63 values", [{ ...evil, dimensions: [2n ** 63n] }]],
    ["2^40 values", [{ ...evil, dimensions: [2 ** 40] }]],
    ["a product that overflows", [{ ...evil, dimensions: [2 ** 32, 2 ** 32, 2 ** 32, 2 ** 32] }]],
    ["a dimension beyond 2^53 beside an empty one", [{ ...evil, dimensions: [0, 2n ** 63n] }]],
    ["an offset of 2^63", [{ ...evil, offset: 2n ** 63n }]],
    ["an offset beyond the file", [{ ...evil, offset: 4096 }]],
    ["an offset that is not aligned", [{ ...evil, offset: 4 }]],
    ["an unknown type and an offset beyond the file", [{ ...evil, type: 99, offset: 4096 }]],
    ["rows of half blocks", [{ ...evil, type: 8, dimensions: [16, 4], data: new Uint8Array(68) }]],
    [
      "the values of another",
      [
        { ...evil, name: "good", dimensions: [16], data: new Uint8Array(64) },
        { ...evil, offset: 32 },
      ],
    ],
    [
      "the values of another, behind an empty one",
      [
        { ...evil, name: "good", dimensions: [16], data: new Uint8Array(64) },
        { ...evil, name: "empty", dimensions: [0], offset: 32 },
        { ...evil, offset: 32 },
      ],
    ],
    ["another's name", [evil, evil]],
  ];

  test.each(hostile)("is refused when it has %s", async (_, changes, part) => {
    const path = join(await temporaryFolder(), "x.gguf");
    const problems = await readDamaged(path, handMadeGguf(changes).bytes, readGguf);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(part);
  });

  test.each(hostileTensors)("is refused when a tensor has %s", async (_, tensors = []) => {
    const path = join(await temporaryFolder(), "x.gguf");
    const problems = await readDamaged(path, handMadeGguf({ entries: [architecture], tensors }).bytes, readGguf);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain('"evil"');
  });

  test("is refused when it would fill the memory with millions of empty arrays", async () => {
    const path = join(await temporaryFolder(), "x.gguf");
    const numArrays = 2_200_000;
    const bomb = entry("evil", 9, array(9, numArrays, Buffer.alloc(12 * numArrays)));
    const problems = await readDamaged(path, handMadeGguf({ entries: [bomb] }).bytes, readGguf);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain('"evil"');
  });

  test("is refused, without reading it, when one value of its header has half a gigabyte", async () => {
    const path = join(await temporaryFolder(), "x.gguf");
    const { bytes } = handMadeGguf({ entries: [entry("evil", 8, u64(2 ** 29))] });
    await writeFile(path, bytes);
    await truncate(path, 2 ** 30);
    expect(await checkReading(path, 0, readGguf)).toEqual([expect.stringMatching(/"evil" has more than .* bytes/)]);
  });
});
