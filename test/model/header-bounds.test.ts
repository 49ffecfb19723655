// Counts and sizes in front of a model's tensors: real ones are read in one go, larger ones refused before they are read.

import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { GgufFile, readJsonFile, SafetensorsFile } from "@readme-moe/model";
import { expect, test } from "vitest";
import { OnnxFile } from "../../packages/model/src/onnx/onnx-file.ts";
import { ShardedSafetensors } from "../../packages/model/src/safetensors/safetensors-file.ts";
import { array, entry, handMadeGguf, type HandMadeGguf, text, textEntry, u64 } from "../support/gguf-bytes.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { safetensorsBytes } from "../support/safetensors-bytes.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

async function fileOf(name: string, bytes: Uint8Array | string): Promise<string> {
  const path = join(await temporaryFolder(), name);
  await writeFile(path, bytes);
  return path;
}

async function valueOf(file: HandMadeGguf, key: string): Promise<unknown> {
  const opened = await GgufFile.open(await fileOf("x.gguf", handMadeGguf(file).bytes));
  await opened.close();
  return opened.metadata.get(key);
}

function integers(type: number, ...values: readonly bigint[]): Promise<unknown> {
  return valueOf({ entries: [entry("x", 9, array(type, values.length, ...values.map((value) => u64(value))))] }, "x");
}

function strings(key: string, texts: readonly string[]): Buffer {
  return entry(key, 9, array(8, texts.length, Buffer.concat(texts.map(text))));
}

async function readJson(json: string): Promise<unknown> {
  return readJsonFile(await fileOf("config.json", json), 2 ** 26);
}

test.each([
  ["uint64", 10, Float64Array],
  ["int64", 11, Float64Array],
  ["uint32", 4, Uint32Array],
  ["float64", 12, Float64Array],
])("a million numbers of the type %s are read as one array", async (_, type, constructor) => {
  const bytes = type === 4 ? 4 : 8;
  const numbers = entry("x", 9, array(type, 1_000_000, Buffer.alloc(bytes * 1_000_000)));
  const path = await fileOf("x.gguf", handMadeGguf({ entries: [numbers] }).bytes);
  const file = await GgufFile.open(path);
  await file.close();
  const value = file.metadata.get("x");
  expect(value).toBeInstanceOf(constructor);
  expect(value).toHaveLength(1_000_000);
});

test("64-bit integers that floats hold are floats, and others stay integers", async () => {
  expect(await integers(10, 0n, 2n ** 53n - 1n)).toStrictEqual(Float64Array.of(0, 2 ** 53 - 1));
  expect(await integers(10, 0n, 2n ** 53n)).toStrictEqual(BigUint64Array.of(0n, 2n ** 53n));
  expect(await integers(11, 2n ** 64n - 5n)).toStrictEqual(Float64Array.of(-5));
  expect(await integers(11, 2n ** 63n)).toStrictEqual(BigInt64Array.of(-(2n ** 63n)));
});

test("the largest vocabularies in use are read", async () => {
  const tokens = Array.from({ length: 262_144 }, (_, id) => `▁token${id}`);
  const merges = Array.from({ length: 514_906 }, (_, index) => `merge ${index}`);
  const entries = [
    strings("tokens", tokens),
    entry("scores", 9, array(6, tokens.length, Buffer.alloc(4 * tokens.length))),
    entry("types", 9, array(5, tokens.length, Buffer.alloc(4 * tokens.length))),
    strings("merges", merges),
  ];
  const file = await GgufFile.open(await fileOf("x.gguf", handMadeGguf({ entries }).bytes));
  await file.close();
  expect(file.metadata.get("tokens")).toStrictEqual(tokens);
  expect(file.metadata.get("merges")).toStrictEqual(merges);
});

const manyStrings = (count: number): Buffer => entry("evil", 9, array(8, count, Buffer.alloc(8 * count)));

test.each<[string, HandMadeGguf, string]>([
  ["two million strings and one", { entries: [manyStrings(2 ** 21 + 1)] }, '"evil"'],
  [
    "two million booleans and one",
    { entries: [entry("evil", 9, array(7, 2 ** 21 + 1, Buffer.alloc(2 ** 21 + 1)))] },
    '"evil"',
  ],
  [
    "65,537 entries",
    { entries: Array.from({ length: 65_537 }, (_, index) => textEntry(`key ${index}`, "")) },
    "65537 metadata entries",
  ],
  [
    "65,537 tensors",
    {
      tensors: Array.from({ length: 65_537 }, (_, index) => ({
        name: `t${index}`,
        dimensions: [1],
        type: 24,
        data: new Uint8Array(1),
      })),
    },
    "65537 tensors",
  ],
])("a GGUF file with %s is refused", async (_, file, part) => {
  const path = await fileOf("x.gguf", handMadeGguf(file).bytes);
  await expectReadMeError(GgufFile.open(path), "ERR_FILE_CORRUPT", path, part);
});

test("a GGUF header is refused at 32 MB, whether in one value or in many", async () => {
  const one = entry("evil", 9, array(0, 40_000_000));
  const many = Array.from({ length: 40 }, (_, index) =>
    entry(`evil ${index}`, 9, array(0, 900_000, Buffer.alloc(900_000))),
  );
  const { bytes } = handMadeGguf({ entries: [one] });
  const path = await fileOf("x.gguf", bytes);
  await truncate(path, 80_000_000);
  await expectReadMeError(GgufFile.open(path), "ERR_FILE_CORRUPT", '"evil"', "33554432 bytes");
  const other = await fileOf("x.gguf", handMadeGguf({ entries: many }).bytes);
  await expectReadMeError(GgufFile.open(other), "ERR_FILE_CORRUPT", "evil 37", "33554432 bytes");
});

const keys = (count: number): string => Array.from({ length: count }, (_, key) => `"${key}":""`).join();

test.each<[string, string]>([
  ["262,145 entries of metadata", `{"__metadata__":{${keys(2 ** 18 + 1)}}}`],
  ["millions of values in an unknown field", `{"evil":{"x":[${"0,".repeat(2 ** 21)}0]}}`],
  ["a shape of seventeen axes", `{"evil":{"dtype":"U8","shape":[${"1,".repeat(16)}1],"data_offsets":[0,1]}}`],
])("a safetensors file with %s is refused", async (_, header) => {
  const path = await fileOf("x.safetensors", safetensorsBytes(header, new Uint8Array(1)));
  await expectReadMeError(SafetensorsFile.open(path), "ERR_FILE_CORRUPT", path);
});

test("a header of 150,000 tensors is read", async () => {
  const header = Object.fromEntries(
    Array.from({ length: 150_000 }, (_, at) => [
      `model.layers.${at}.mlp.experts.0.gate_proj.weight`,
      { dtype: "U8", shape: [1, 1], data_offsets: [at, at + 1] },
    ]),
  );
  const file = await SafetensorsFile.open(
    await fileOf("x.safetensors", safetensorsBytes(header, new Uint8Array(150_000))),
  );
  await file.close();
  expect(file.names).toHaveLength(150_000);
});

test("an index of 262,145 tensors is refused", async () => {
  const path = await fileOf("model.safetensors.index.json", `{"weight_map":{${keys(2 ** 18 + 1)}}}`);
  await expectReadMeError(ShardedSafetensors.open(path), "ERR_FILE_CORRUPT", path, "at most 262144 texts");
});

test("a JSON file is refused before it is parsed when it has too many values or levels", async () => {
  const quoted = `${"[".repeat(1000)}\\"${"{".repeat(1000)}`;
  expect(await readJson(JSON.stringify({ a: Array(1000).fill(0), b: quoted }))).toStrictEqual({
    a: Array(1000).fill(0),
    b: quoted,
  });
  expect(await readJson(`{"a":${"[".repeat(99)}${"]".repeat(99)}}`)).toHaveProperty("a");
  await expectReadMeError(
    readJson(`{"a":${"[".repeat(100)}${"]".repeat(100)}}`),
    "ERR_FILE_CORRUPT",
    "deeper than 100",
  );
  await expectReadMeError(
    readJson(`{"a":[${"[],".repeat(2 ** 21)}0]}`),
    "ERR_FILE_CORRUPT",
    "more than 4194304 values",
  );
});

/** A field of protobuf: tag, length and content. */
const field = (number: number, content: Uint8Array): Buffer => {
  const length: number[] = [];
  for (let left = content.byteLength; ; left = Math.floor(left / 128)) {
    length.push((left % 128) + (left >= 128 ? 128 : 0));
    if (left < 128) break;
  }
  return Buffer.concat([Buffer.from([number * 8 + 2, ...length]), content]);
};

test.each<[string, string, Uint8Array]>([
  ["fields of the file", "more than 1048576 fields", Buffer.alloc(2 * (2 ** 20 + 1), Buffer.from([0x08, 0x01]))],
  [
    "fields of its graph",
    "more than 1048576 fields",
    field(7, Buffer.alloc(2 * (2 ** 20 + 1), Buffer.from([0x10, 0x01]))),
  ],
  [
    "parts of a node's attribute",
    "more than 2097152 parts",
    field(7, field(1, field(5, Buffer.alloc(2 * (2 ** 21 + 1), Buffer.from([0x18, 0x01]))))),
  ],
  [
    "parts of a tensor in a node",
    "too many parts",
    field(7, field(1, field(5, field(5, Buffer.alloc(2 * (2 ** 16 + 2), Buffer.from([0x10, 0x01])))))),
  ],
])("an ONNX file with too many %s is refused", async (_, part, bytes) => {
  const path = await fileOf("model.onnx", bytes);
  await expectReadMeError(OnnxFile.open(path), "ERR_FILE_CORRUPT", path, part);
});
