import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { GgufFile } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { type GgufInput, writeGguf } from "../support/gguf/write-gguf.ts";
import { plainQ8 } from "../support/plain-blocks.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

function constant(values: Float32Array): () => Promise<Float32Array> {
  return () => Promise.resolve(values);
}

describe("writeGguf", () => {
  test("writes metadata of every type and tensors in order, which GgufFile reads back", async () => {
    const path = join(await temporaryFolder(), "model.gguf");
    const values = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
    const tensors: GgufInput[] = [
      { name: "b", type: "F32", shape: [2, 32], floats: constant(values) },
      { name: "a", type: "F16", shape: [3], floats: constant(Float32Array.of(1, 0.1, -2)) },
      { name: "s", type: "F32", shape: [], floats: constant(Float32Array.of(5)) },
      { name: "e", type: "Q8_0", shape: [0, 32], floats: constant(new Float32Array(0)) },
    ];
    await writeGguf(
      path,
      tensors,
      new Map([
        ["general.architecture", { type: "string", value: "llama" }],
        ["general.alignment", { type: "uint32", value: 64 }],
        ["i8", { type: "int8", value: -128 }],
        ["i64", { type: "int64", value: -(2n ** 63n) }],
        ["u64", { type: "uint64", value: 2n ** 64n - 1n }],
        ["f32", { type: "float32", value: 0.5 }],
        ["f64", { type: "float64", value: 0.1 }],
        ["yes", { type: "bool", value: true }],
        ["tokens", { type: "array", of: "string", value: ["a", "é", ""] }],
        ["types", { type: "array", of: "int32", value: Int32Array.of(-1, 2) }],
        ["flags", { type: "array", of: "bool", value: [true, false] }],
      ]),
    );
    const file = await GgufFile.open(path);
    expect([...file.metadata.values()]).toEqual([
      "llama",
      64,
      -128,
      -(2n ** 63n),
      2n ** 64n - 1n,
      0.5,
      0.1,
      true,
      ["a", "é", ""],
      Int32Array.of(-1, 2),
      [true, false],
    ]);
    expect([...file.tensors.keys()]).toEqual(["b", "a", "s", "e"]);
    expect([...file.tensors.values()].map(({ offset }) => offset % 64)).toEqual([0, 0, 0, 0]);
    expect(await file.readFloats("b")).toEqual(values);
    expect(await file.readFloats("a")).toEqual(Float32Array.of(1, 0.0999755859375, -2));
    expect(await file.readFloats("s")).toEqual(Float32Array.of(5));
    await file.close();
  });

  test("quantises to Q8_0 with scale max|x| / 127 and halves away from zero", async () => {
    const path = join(await temporaryFolder(), "model.gguf");
    // The first block's scale is exactly 2^-4, so that its halves are exact.
    const first = Float32Array.from({ length: 32 }, (_, i) => (i === 0 ? 127 : i - 16.5) / 16);
    const second = Float32Array.from({ length: 32 }, (_, i) => Math.cos(i) * 1e-3);
    const values = Float32Array.of(...first, ...second, ...new Float32Array(32));
    await writeGguf(path, [{ name: "x", type: "Q8_0", shape: [3, 32], floats: constant(values) }], new Map());
    const file = await GgufFile.open(path);
    const bytes = await file.readBytes("x");
    expect(new Int8Array(bytes.slice(2, 34).buffer)).toEqual(
      Int8Array.of(
        127,
        -16,
        -15,
        -14,
        -13,
        -12,
        -11,
        -10,
        -9,
        -8,
        -7,
        -6,
        -5,
        -4,
        -3,
        -2,
        -1,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
      ),
    );
    expect(bytes.slice(68)).toEqual(new Uint8Array(34));
    // Half a step of q, and the scale's own rounding to F16.
    const scale = 1e-3 / 127;
    const read = await file.readFloats("x", { from: 1, to: 2 });
    read.forEach((value, i) => {
      expect(Math.abs(value - (second[i] ?? 0))).toBeLessThanOrEqual(scale * (0.5 + 127 * 2 ** -10));
      expect(value).toBe(plainQ8(bytes, 32 + i));
    });
    await file.close();
  });

  test("names the tensor and leaves no file when its values cannot be read or quantised", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "model.gguf");
    await writeFile(path, "old");
    const write = (floats: () => Promise<Float32Array>): Promise<void> =>
      writeGguf(path, [{ name: "x", type: "Q8_0", shape: [32], floats }], new Map());
    await expectReadMeError(write(constant(new Float32Array(32).fill(NaN))), "ERR_WRITE_FAILED", path, '"x"', "finite");
    await expectReadMeError(write(constant(new Float32Array(32).fill(1e9))), "ERR_WRITE_FAILED", path, '"x"');
    await expectReadMeError(write(constant(new Float32Array(31))), "ERR_WRITE_FAILED", path, '"x"', "31");
    await expectReadMeError(
      write(() => Promise.reject(new Error("lost"))),
      "ERR_WRITE_FAILED",
      path,
      "lost",
    );
    expect(await readFile(path, "utf8")).toBe("old");
    expect(await readdir(folder)).toEqual(["model.gguf"]);
  });

  test("refuses invalid input before it writes anything", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "model.gguf");
    const one: GgufInput = { name: "x", type: "Q8_0", shape: [2, 32], floats: constant(new Float32Array(64)) };
    const write = (
      tensors: readonly GgufInput[],
      metadata: Parameters<typeof writeGguf>[2] = new Map(),
    ): Promise<void> => writeGguf(path, tensors, metadata);
    await expect(write([one, one])).rejects.toThrow(TypeError);
    await expect(write([{ ...one, shape: [32, 2] }])).rejects.toThrow(/"x".*multiple of 32.*\[32, 2\]/);
    await expect(write([{ ...one, shape: [1, 1, 1, 2, 32] }])).rejects.toThrow(RangeError);
    // @ts-expect-error: a type that only reading knows
    await expect(write([{ ...one, type: "BF16" }])).rejects.toThrow(/"x".*"BF16"/);
    await expect(write([one], new Map([["k", { type: "uint8", value: 256 }]]))).rejects.toThrow(/"k".*uint8.*256/);
    await expect(write([one], new Map([["k", { type: "int32", value: 1.5 }]]))).rejects.toThrow(/"k".*int32.*1\.5/);
    const odd = new Map([["general.alignment", { type: "uint32", value: 24 }]] as const);
    await expect(write([one], odd)).rejects.toThrow(/general\.alignment.*24/);
    expect(await readdir(folder)).toEqual([]);
  });
});
