import { readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ggmlTypeOf } from "../../packages/model/src/gguf/ggml-types.ts";
import { describe, expect, test } from "vitest";
import {
  SafetensorsFile,
  type SafetensorsInput,
  writeSafetensors,
} from "../../packages/model/src/safetensors/safetensors-file.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { safetensorsBytes } from "../support/safetensors-bytes.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

async function fileOf(header: string | object, data?: Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), "model.safetensors");
  await writeFile(path, safetensorsBytes(header, data));
  return path;
}

function input(
  name: string,
  type: SafetensorsInput["type"],
  shape: readonly number[],
  bytes: Uint8Array,
): SafetensorsInput {
  return { name, type, shape, bytes: () => Promise.resolve(bytes) };
}

function counting(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => i);
}

function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

describe("SafetensorsFile", () => {
  test("reads info, bytes and metadata of a file made by hand", async () => {
    const header = {
      __metadata__: { format: "pt" },
      b: { dtype: "I16", shape: [2, 2], data_offsets: [4, 12] },
      a: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
    };
    const path = await fileOf(
      header,
      Buffer.concat([bytesOf(Float32Array.of(1.5)), bytesOf(Int16Array.of(1, 2, 3, 4))]),
    );
    const file = await SafetensorsFile.open(path);
    expect(file.path).toBe(path);
    expect(file.names).toEqual(["b", "a"]);
    expect([...file.metadata]).toEqual([["format", "pt"]]);
    expect(file.has("a")).toBe(true);
    expect(file.has("c")).toBe(false);
    expect(file.info("b")).toMatchObject({ name: "b", type: "I16", shape: [2, 2], byteLength: 8 });
    expect(await file.readFloats("a")).toEqual(Float32Array.of(1.5));
    expect(await file.readBytes("b")).toEqual(bytesOf(Int16Array.of(1, 2, 3, 4)));
    expect(await file.readBytes("b", { from: 1, to: 2 })).toEqual(bytesOf(Int16Array.of(3, 4)));
    const { offset, byteLength } = file.info("b");
    expect((await readFile(path)).subarray(offset, offset + byteLength)).toEqual(
      Buffer.from(await file.readBytes("b")),
    );
    await file.close();
  });

  test("reads each float type as float32, whole and by rows", async () => {
    const path = join(await temporaryFolder(), "model.safetensors");
    const f16 = Uint16Array.of(0x3c00, 0xc000, 0x3800, 0x0001, 0x7bff, 0x8000); // 1 -2 0.5 2^-24 65504 -0
    const bf16 = Uint16Array.of(0x3f80, 0xc000, 0x3f00, 0x4049, 0x0000, 0x8000); // 1 -2 0.5 3.140625 0 -0
    await writeSafetensors(path, [
      input("f64", "F64", [3, 2], bytesOf(Float64Array.of(1, -2, 0.5, 0.1, 0, -0))),
      input("f32", "F32", [3, 2], bytesOf(Float32Array.of(1, -2, 0.5, 0.1, 0, -0))),
      input("f16", "F16", [3, 2], bytesOf(f16)),
      input("bf16", "BF16", [3, 2], bytesOf(bf16)),
    ]);
    const file = await SafetensorsFile.open(path);
    expect(await file.readFloats("f64")).toEqual(Float32Array.of(1, -2, 0.5, 0.1, 0, -0));
    expect(await file.readFloats("f32")).toEqual(Float32Array.of(1, -2, 0.5, 0.1, 0, -0));
    expect(await file.readFloats("f16")).toEqual(Float32Array.of(1, -2, 0.5, 2 ** -24, 65504, -0));
    expect(await file.readFloats("bf16")).toEqual(Float32Array.of(1, -2, 0.5, 3.140625, 0, -0));
    expect(await file.readFloats("f16", { from: 1, to: 3 })).toEqual(Float32Array.of(0.5, 2 ** -24, 65504, -0));
    expect(await file.readFloats("f16", { from: 2, to: 2 })).toEqual(new Float32Array(0));
    await file.close();
  });

  test("reads types of several bytes from an odd offset of the file", async () => {
    const values = Float32Array.of(1, -2, 0.5);
    const stored = [
      ["bf16", "BF16", bytesOf(Uint16Array.of(0x3f80, 0xc000, 0x3f00))],
      ["f16", "F16", bytesOf(Uint16Array.of(0x3c00, 0xc000, 0x3800))],
      ["f32", "F32", bytesOf(values)],
      ["f64", "F64", bytesOf(Float64Array.from(values))],
      ["i64", "I64", bytesOf(BigInt64Array.of(1n, -2n, 3n))],
    ] as const;
    for (const [name, dtype, bytes] of stored) {
      for (const before of [1, 2, 3]) {
        const header = {
          before: { dtype: "U8", shape: [before], data_offsets: [0, before] },
          [name]: { dtype, shape: [3, 1], data_offsets: [before, before + bytes.byteLength] },
        };
        // Spaces behind the header move all data.
        for (const spaces of [0, 1]) {
          const json = `${JSON.stringify(header)}${" ".repeat(spaces)}`;
          const file = await SafetensorsFile.open(
            await fileOf(json, Buffer.concat([Buffer.alloc(before, 255), bytes])),
          );
          expect(await file.readBytes(name)).toStrictEqual(new Uint8Array(bytes));
          if (name !== "i64") {
            expect(await file.readFloats(name)).toStrictEqual(values);
            expect(await file.readFloats(name, { from: 1, to: 3 })).toStrictEqual(values.slice(1));
          }
          await file.close();
        }
      }
    }
  });

  test("names file and tensor when one is missing, holds integers, or has too few rows", async () => {
    const path = await fileOf({ ids: { dtype: "I64", shape: [2], data_offsets: [0, 16] } }, new Uint8Array(16));
    const file = await SafetensorsFile.open(path);
    await expectReadMeError(file.readBytes("none"), "ERR_MODEL_INVALID", path, '"none"');
    await expectReadMeError(file.readFloats("ids"), "ERR_MODEL_INVALID", path, '"ids"', "I64");
    await expect(file.readBytes("ids", { from: 1, to: 3 })).rejects.toThrow(/Expected `rows.to` .* got `3`/);
    await expect(file.readBytes("ids", { from: 0.5, to: 1 })).rejects.toThrow(TypeError);
    await expect(file.readBytes("ids", { from: 2, to: 1 })).rejects.toThrow(RangeError);
    await truncate(path, 20);
    await expectReadMeError(file.readBytes("ids"), "ERR_FILE_CORRUPT", path, '"ids"');
    await file.close();
    await expectReadMeError(file.readBytes("ids"), "ERR_DISPOSED", path, '"ids"');
  });

  test("accepts scalars, empty tensors at any place, unknown fields and an empty file", async () => {
    const header = {
      scalar: { dtype: "F32", shape: [], data_offsets: [0, 4] },
      last: { dtype: "U8", shape: [3, 1], data_offsets: [4, 7] },
      middle: { dtype: "F32", shape: [0, 9007199254740991, 3], data_offsets: [4, 4], note: [{ a: null }, -1.5e3] },
      end: { dtype: "BOOL", shape: [5, 0], data_offsets: [7, 7] },
    };
    const file = await SafetensorsFile.open(await fileOf(header, counting(7)));
    expect((await file.readFloats("scalar")).length).toBe(1);
    expect((await file.readFloats("scalar", { from: 0, to: 1 })).length).toBe(1);
    expect(await file.readFloats("middle")).toEqual(new Float32Array(0));
    expect(await file.readBytes("end", { from: 1, to: 4 })).toEqual(new Uint8Array(0));
    expect(await file.readBytes("last")).toEqual(Uint8Array.of(4, 5, 6));
    await file.close();
    const empty = await SafetensorsFile.open(await fileOf("{}"));
    expect(empty.names).toEqual([]);
    await empty.close();
  });

  test("reads names with escapes, and names of built-in properties", async () => {
    const header = String.raw`{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a\"\u00e9\\":{"dtype":"U8","shape":[1],"data_offsets":[1,2]} }  `;
    const file = await SafetensorsFile.open(await fileOf(header, counting(2)));
    expect(file.names).toEqual(["__proto__", 'a"é\\']);
    expect(file.has("constructor")).toBe(false);
    await file.close();
  });

  test.each(["F8_E4M3", "U16", "U64", "F4"])("says that the type %s is not supported", async (dtype) => {
    const path = await fileOf({ x: { dtype, shape: [1], data_offsets: [0, 1] } }, counting(1));
    await expectReadMeError(SafetensorsFile.open(path), "ERR_MODEL_UNSUPPORTED", path, '"x"', dtype);
  });
});

describe("writeSafetensors", () => {
  test("writes data in list order, without gaps, after a header padded to 8 bytes", async () => {
    const path = join(await temporaryFolder(), "model.safetensors");
    const tensors = [
      input("z", "U8", [3], counting(3)),
      input("10", "F16", [0, 4], new Uint8Array(0)),
      input("2", "I32", [], counting(4)),
      input("a", "BOOL", [1, 1], counting(1)),
    ];
    await writeSafetensors(path, tensors, { format: "pt", note: 'say "hi"' });
    const bytes = await readFile(path);
    const headerBytes = Number(bytes.readBigUInt64LE());
    expect(headerBytes % 8).toBe(0);
    expect(JSON.parse(bytes.subarray(8, 8 + headerBytes).toString())).toEqual({
      __metadata__: { format: "pt", note: 'say "hi"' },
      z: { dtype: "U8", shape: [3], data_offsets: [0, 3] },
      10: { dtype: "F16", shape: [0, 4], data_offsets: [3, 3] },
      2: { dtype: "I32", shape: [], data_offsets: [3, 7] },
      a: { dtype: "BOOL", shape: [1, 1], data_offsets: [7, 8] },
    });
    expect([...bytes.subarray(8 + headerBytes)]).toEqual([0, 1, 2, 0, 1, 2, 3, 0]);
    const file = await SafetensorsFile.open(path);
    // JavaScript lists names of integers first.
    expect(file.names).toEqual(["2", "10", "z", "a"]);
    expect(file.metadata.get("note")).toBe('say "hi"');
    await file.close();
  });

  test("makes the data of one tensor at a time, each once", async () => {
    const path = join(await temporaryFolder(), "model.safetensors");
    const calls: string[] = [];
    let numOpen = 0;
    const lazy = (name: string): SafetensorsInput => ({
      name,
      type: "U8",
      shape: [2],
      bytes: async () => {
        expect(++numOpen).toBe(1);
        calls.push(name);
        await Promise.resolve();
        numOpen -= 1;
        return counting(2);
      },
    });
    await writeSafetensors(path, [lazy("b"), lazy("a"), lazy("c")]);
    expect(calls).toEqual(["b", "a", "c"]);
  });

  test("keeps the old file when a tensor fails or has the wrong length", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "model.safetensors");
    await writeFile(path, "old");
    const failing = { ...input("bad", "U8", [1], counting(1)), bytes: () => Promise.reject(new Error("lost")) };
    await expectReadMeError(
      writeSafetensors(path, [input("a", "U8", [1], counting(1)), failing]),
      "ERR_WRITE_FAILED",
      "lost",
    );
    await expectReadMeError(
      writeSafetensors(path, [input("short", "F32", [1], counting(3))]),
      "ERR_WRITE_FAILED",
      '"short"',
      "4",
    );
    expect(await readFile(path, "utf8")).toBe("old");
    expect(await readdir(folder)).toEqual(["model.safetensors"]);
  });

  test("writes blocks as bytes whose type the metadata name, and reads them as blocks", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "model.safetensors");
    const blocks = Uint8Array.from({ length: 3 * 2 * 18 }, (_, i) => (i % 18 === 1 ? 0x2c : (37 * i) % 251));
    await writeSafetensors(path, [input("w", "Q4_0", [3, 64], blocks), input("b", "U8", [4], counting(4))], {
      b: "Q4_0?",
    });
    const file = await SafetensorsFile.open(path);
    expect(file.info("w")).toMatchObject({ type: "Q4_0", shape: [3, 64], byteLength: blocks.length });
    expect(file.info("b")).toMatchObject({ type: "U8", shape: [4] });
    expect(file.metadata.get("w")).toBe("Q4_0");
    expect(await file.readBytes("w", { from: 1, to: 2 })).toEqual(blocks.slice(36, 72));
    const values = await file.readFloats("w", { from: 2, to: 3 });
    expect(values).toEqual(ggmlTypeOf("Q4_0")?.dequantize?.(blocks.slice(72)));
    await file.close();
    const wrong = join(folder, "wrong.safetensors");
    await writeSafetensors(wrong, [input("w", "U8", [2, 35], counting(70))], { w: "Q4_0" });
    await expectReadMeError(SafetensorsFile.open(wrong), "ERR_FILE_CORRUPT", '"w"', "35 bytes", "Q4_0 blocks of 18");
  });

  test("refuses invalid tensors before it writes a byte", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "model.safetensors");
    const write = (...tensors: SafetensorsInput[]): Promise<void> => writeSafetensors(path, tensors);
    const one = counting(1);
    await expect(write(input("a", "U8", [1], one), input("a", "U8", [1], one))).rejects.toThrow(/unique.*"a"/);
    await expect(write(input("__metadata__", "U8", [1], one))).rejects.toThrow(TypeError);
    await expect(write(input("a", "U8", [-1], one))).rejects.toThrow(/"a".*\[-1\]/);
    await expect(write(input("a", "U8", [2 ** 30, 2 ** 30], one))).rejects.toThrow(RangeError);
    // @ts-expect-error: no type of blocks or of elements
    await expect(write(input("a", "Q9_0", [32], one))).rejects.toThrow(/"a".*"Q9_0"/);
    await expect(write(input("a", "Q8_0", [2, 33], one))).rejects.toThrow(/"a".*whole Q8_0 blocks.*\[2, 33\]/);
    expect(await readdir(folder)).toEqual([]);
  });
});
