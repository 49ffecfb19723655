import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { GgufFile } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import {
  array,
  entry,
  f32,
  type HandMadeGguf,
  handMadeGguf,
  text,
  textEntry,
  u32,
  u32Entry,
  u64,
  u8,
} from "../support/gguf-bytes.ts";
import { plainQ4Affine, plainQ4Symmetric, plainQ8, randomBlocks } from "../support/plain-blocks.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const F32 = 0;
const F16 = 1;

async function fileOf(file: HandMadeGguf | Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), "model.gguf");
  await writeFile(path, file instanceof Uint8Array ? file : handMadeGguf(file).bytes);
  return path;
}

function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

const POINTER = `version https://git-lfs.github.com/spec/v1
oid sha256:${"0".repeat(64)}
size 1117320768
`;

describe("a file of another kind under a GGUF file's name is refused with what it is:", () => {
  test.each([
    ["GG", "text"],
    ["The weights are on the other disk.\n", "text"],
    ["Gewichte für später", "text"],
    [POINTER, "a pointer of Git LFS: `git lfs pull`"],
    ["\ufeff<!DOCTYPE html>\n<title>Sign in</title>", "an HTML page"],
    ["<html lang=en>", "an HTML page"],
    ['{"error": "not found"}', "JSON text"],
    [Buffer.from([0x40, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x22]), "a safetensors file"],
    [Buffer.from("PK\u0003\u0004rest"), "a ZIP archive"],
    [Buffer.from([0x1f, 0x8b, 8, 0]), "compressed by gzip"],
    [Buffer.from("tjgg\u0003\0\0\0"), "from before GGUF"],
    [Buffer.from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), "which begins with the bytes 0001020304050607"],
  ])("%j", async (content, what) => {
    const path = await fileOf(Buffer.from(content as string));
    await expectReadMeError(GgufFile.open(path), "ERR_FILE_CORRUPT", `${path}: is not a GGUF file but `, what);
  });
});

describe("GgufFile metadata", () => {
  test.each([2, 3])("reads all 13 types of values in version %i", async (version) => {
    const int64 = Buffer.alloc(8);
    int64.writeBigInt64LE(-5n);
    const double = Buffer.alloc(8);
    double.writeDoubleLE(0.1);
    const path = await fileOf({
      version,
      entries: [
        entry("u8", 0, u8(200)),
        entry("i8", 1, u8(200)),
        entry("u16", 2, u8(0x34, 0x12)),
        entry("i16", 3, u8(0xff, 0xff)),
        entry("u32", 4, u32(4_000_000_000)),
        entry("i32", 5, u32(0xffff_fffe)),
        entry("f32", 6, f32(1.5)),
        entry("true", 7, u8(1)),
        entry("false", 7, u8(0)),
        entry("text", 8, text("tea: 茶")),
        entry("u64", 10, u64(2n ** 63n)),
        entry("u64 safe", 10, u64(2 ** 53 - 1)),
        entry("i64", 11, int64),
        entry("f64", 12, double),
      ],
    });
    const file = await GgufFile.open(path);
    expect(file.version).toBe(version);
    expect([...file.metadata]).toEqual([
      ["u8", 200],
      ["i8", -56],
      ["u16", 0x1234],
      ["i16", -1],
      ["u32", 4_000_000_000],
      ["i32", -2],
      ["f32", 1.5],
      ["true", true],
      ["false", false],
      ["text", "tea: 茶"],
      ["u64", 2n ** 63n],
      ["u64 safe", 2 ** 53 - 1],
      ["i64", -5],
      ["f64", 0.1],
    ]);
    await file.close();
  });

  test("reads arrays of all types, including arrays of arrays", async () => {
    const path = await fileOf({
      entries: [
        entry("u8", 9, array(0, 2, u8(1, 255))),
        entry("i8", 9, array(1, 2, u8(1, 255))),
        entry("u16", 9, array(2, 1, u8(1, 1))),
        entry("i16", 9, array(3, 1, u8(255, 255))),
        entry("u32", 9, array(4, 1, u32(4_000_000_000))),
        entry("i32", 9, array(5, 1, u32(0xffff_ffff))),
        entry("f32", 9, array(6, 2, f32(1.5), f32(-2))),
        entry("bool", 9, array(7, 2, u8(1, 0))),
        entry("text", 9, array(8, 3, text("a"), text(""), text("é"))),
        entry("u64", 9, array(10, 2, u64(7), u64(2n ** 64n - 1n))),
        entry("nested", 9, array(9, 2, array(9, 1, array(0, 1, u8(3))), array(8, 1, text("x")))),
        entry("empty", 9, array(9, 0)),
      ],
    });
    const file = await GgufFile.open(path);
    await file.close();
    expect([...file.metadata.values()]).toEqual([
      Uint8Array.of(1, 255),
      Int8Array.of(1, -1),
      Uint16Array.of(257),
      Int16Array.of(-1),
      Uint32Array.of(4_000_000_000),
      Int32Array.of(-1),
      Float32Array.of(1.5, -2),
      [true, false],
      ["a", "", "é"],
      BigUint64Array.of(7n, 2n ** 64n - 1n),
      [[Uint8Array.of(3)], ["x"]],
      [],
    ]);
  });

  test("reads a header of many megabytes with only a part of it in memory", async () => {
    const tokens = Array.from({ length: 300_000 }, (_, i) => `token ${i}`);
    const path = await fileOf({
      entries: [
        entry("tokens", 9, u32(8), u64(tokens.length), Buffer.concat(tokens.map(text))),
        ...Array.from({ length: 20_000 }, (_, i) => textEntry(`key ${i}`, "x".repeat(100))),
      ],
      tensors: [{ name: "t", dimensions: [1], type: F32, data: bytesOf(Float32Array.of(7)) }],
    });
    const file = await GgufFile.open(path);
    expect(file.metadata.get("tokens")).toEqual(tokens);
    expect(file.metadata.size).toBe(20_001);
    expect(await file.readFloats("t")).toEqual(Float32Array.of(7));
    await file.close();
  });

  test.each([
    ["another magic", Buffer.from("GGML\x03\0\0\0"), "ERR_FILE_CORRUPT", "is not a GGUF file"],
    ["version 1", Buffer.from("GGUF\x01\0\0\0"), "ERR_MODEL_UNSUPPORTED", "version 1"],
    ["version 4", Buffer.from("GGUF\x04\0\0\0"), "ERR_MODEL_UNSUPPORTED", "version 4"],
    ["big-endian numbers", Buffer.from("GGUF\0\0\0\x03"), "ERR_MODEL_UNSUPPORTED", "big-endian"],
    ["nothing in it", Buffer.alloc(0), "ERR_FILE_CORRUPT", "is not a GGUF file but empty"],
  ] as const)("refuses a file with %s", async (_, bytes, code, part) => {
    const path = await fileOf(bytes);
    await expectReadMeError(GgufFile.open(path), code, path, part);
  });
});

describe("GgufFile tensors", () => {
  test("reverses shapes, and reads plain types whole and by rows", async () => {
    const path = await fileOf({
      tensors: [
        { name: "f32", dimensions: [2, 3], type: F32, data: bytesOf(Float32Array.of(1, 2, 3, 4, 5, 6)) },
        { name: "f16", dimensions: [2], type: F16, data: bytesOf(Uint16Array.of(0x3c00, 0xc000)) },
        { name: "bf16", dimensions: [2], type: 30, data: bytesOf(Uint16Array.of(0x3f80, 0xc000)) },
        { name: "f64", dimensions: [1], type: 28, data: bytesOf(Float64Array.of(0.1)) },
        { name: "i32", dimensions: [2, 1, 1, 1], type: 26, data: bytesOf(Int32Array.of(1, 2)) },
        { name: "scalar", dimensions: [], type: F32, data: bytesOf(Float32Array.of(9)) },
        { name: "empty", dimensions: [32, 0], type: 8 },
      ],
    });
    const file = await GgufFile.open(path);
    expect([...file.tensors.keys()]).toEqual(["f32", "f16", "bf16", "f64", "i32", "scalar", "empty"]);
    expect(file.info("f32")).toEqual({ name: "f32", type: "F32", shape: [3, 2], byteLength: 24 });
    expect(file.info("i32").shape).toEqual([1, 1, 1, 2]);
    expect(await file.readFloats("f32")).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
    expect(await file.readFloats("f32", { from: 1, to: 3 })).toEqual(Float32Array.of(3, 4, 5, 6));
    expect(await file.readFloats("f16")).toEqual(Float32Array.of(1, -2));
    expect(await file.readFloats("bf16", { from: 1, to: 2 })).toEqual(Float32Array.of(-2));
    expect(await file.readFloats("f64")).toEqual(Float32Array.of(0.1));
    expect(await file.readBytes("i32")).toEqual(bytesOf(Int32Array.of(1, 2)));
    expect(await file.readFloats("scalar")).toEqual(Float32Array.of(9));
    expect(await file.readFloats("empty")).toEqual(new Float32Array(0));
    await expectReadMeError(file.readFloats("i32"), "ERR_MODEL_INVALID", path, '"i32"', "I32");
    await expectReadMeError(file.readFloats("none"), "ERR_MODEL_INVALID", path, '"none"');
    await expect(file.readFloats("f32", { from: 0, to: 4 })).rejects.toThrow(/`rows.to`.*`4`/);
    await file.close();
    await expectReadMeError(file.readBytes("f32"), "ERR_DISPOSED", path, '"f32"');
  });

  test.each([
    ["Q8_0", 8, 34, 1, plainQ8],
    ["Q4_0", 2, 18, 1, plainQ4Symmetric],
    ["Q4_1", 3, 20, 2, plainQ4Affine],
  ] as const)(
    "dequantises %s as a plain decoder does, whole and by rows",
    async (name, type, blockBytes, numHalves, plain) => {
      const [numRows, rowLength] = [50, 96];
      const blocks = randomBlocks((numRows * rowLength) / 32, blockBytes, numHalves, type);
      const vector = blocks.subarray(0, 2 * blockBytes);
      const path = await fileOf({
        tensors: [
          { name: "x", dimensions: [rowLength, numRows], type, data: blocks },
          { name: "vector", dimensions: [64], type, data: vector },
        ],
      });
      const file = await GgufFile.open(path);
      expect(file.info("x").type).toBe(name);
      const expected = Float32Array.from({ length: numRows * rowLength }, (_, i) => plain(blocks, i));
      expect(await file.readFloats("x")).toEqual(expected);
      expect(await file.readFloats("x", { from: 7, to: 9 })).toEqual(expected.subarray(7 * rowLength, 9 * rowLength));
      expect(await file.readBytes("x", { from: 1, to: 2 })).toEqual(blocks.subarray(3 * blockBytes, 6 * blockBytes));
      // Rows of a vector are single values, and a block holds 32 of them.
      expect(await file.readFloats("vector", { from: 30, to: 35 })).toEqual(expected.subarray(30, 35));
      await expectReadMeError(file.readBytes("vector", { from: 30, to: 35 }), "ERR_MODEL_UNSUPPORTED", '"vector"');
      await file.close();
    },
  );

  test("lists tensors of unsupported types, and names tensor and type in the error", async () => {
    const path = await fileOf({
      tensors: [
        { name: "iq", dimensions: [256, 2], type: 22, data: new Uint8Array(164) },
        { name: "new", dimensions: [3, 5], type: 99, data: new Uint8Array(7) },
        { name: "f", dimensions: [1], type: F32, data: new Uint8Array(4) },
      ],
    });
    const file = await GgufFile.open(path);
    expect(file.tensors.get("iq")).toMatchObject({ shape: [2, 256], byteLength: 164, type: { name: "IQ2_S" } });
    expect(file.tensors.get("new")).toMatchObject({ shape: [5, 3], ggmlType: 99, byteLength: undefined });
    await expectReadMeError(file.readFloats("iq"), "ERR_MODEL_UNSUPPORTED", path, '"iq"', "IQ2_S", "Q2_K");
    await expectReadMeError(file.readBytes("new"), "ERR_MODEL_UNSUPPORTED", path, '"new"', "99", "Q4_K or Q8_0");
    expect(await file.readFloats("f")).toEqual(Float32Array.of(0));
    await file.close();
  });

  test("follows general.alignment, and refuses values other than powers of two from 8", async () => {
    const tensors = [
      { name: "a", dimensions: [1], type: F32, data: bytesOf(Float32Array.of(1)) },
      { name: "b", dimensions: [1], type: F32, data: bytesOf(Float32Array.of(2)) },
    ];
    for (const alignment of [8, 64, 4096]) {
      const path = await fileOf({ alignment, entries: [u32Entry("general.alignment", alignment)], tensors });
      const file = await GgufFile.open(path);
      expect([...(await file.readFloats("a")), ...(await file.readFloats("b"))]).toEqual([1, 2]);
      await file.close();
    }
    for (const alignment of [0, 1, 4, 12, 24, 4_000_000_000]) {
      const path = await fileOf({ entries: [u32Entry("general.alignment", alignment)], tensors });
      await expectReadMeError(GgufFile.open(path), "ERR_FILE_CORRUPT", path, "general.alignment");
    }
    const path = await fileOf({ entries: [textEntry("general.alignment", "32")], tensors });
    await expectReadMeError(GgufFile.open(path), "ERR_FILE_CORRUPT", path, "general.alignment");
  });
});
