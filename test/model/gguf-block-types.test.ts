import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inflateSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { GGML_TYPES } from "../../packages/model/src/gguf/ggml-types.ts";
import { GgufFile, GgufTensorStore } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { golden } from "../support/fixtures.ts";
import { type HandMadeGguf, handMadeGguf, textEntry, u32Entry } from "../support/gguf-bytes.ts";
import { plainQ4K, plainQ6K, randomBlocks } from "../support/plain-blocks.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const Q4_K = 12;
const Q4_K_BYTES = 144;

/** Name, number, values and bytes per block. */
const TYPES = [
  ["Q4_0", 2, 32, 18],
  ["Q4_1", 3, 32, 20],
  ["Q5_0", 6, 32, 22],
  ["Q5_1", 7, 32, 24],
  ["Q8_0", 8, 32, 34],
  ["Q2_K", 10, 256, 84],
  ["Q3_K", 11, 256, 110],
  ["Q4_K", Q4_K, 256, Q4_K_BYTES],
  ["Q5_K", 13, 256, 176],
  ["Q6_K", 14, 256, 210],
  ["IQ4_NL", 20, 32, 18],
  ["IQ4_XS", 23, 256, 136],
  ["TQ2_0", 35, 256, 66],
  ["MXFP4", 39, 32, 17],
] as const;

/** Name, number, values and bytes per block of types that are refused, and what to take instead. */
const REFUSED = [
  ["IQ2_XXS", 16, 256, 66, "Q2_K"],
  ["IQ2_XS", 17, 256, 74, "Q2_K"],
  ["IQ3_XXS", 18, 256, 98, "Q3_K"],
  ["IQ1_S", 19, 256, 50, "Q2_K"],
  ["IQ3_S", 21, 256, 110, "Q3_K"],
  ["IQ2_S", 22, 256, 82, "Q2_K"],
  ["IQ1_M", 29, 256, 56, "Q2_K"],
  ["Q4_0_4_4", 31, 32, 18, "Q4_0"],
  ["Q4_0_4_8", 32, 32, 18, "Q4_0"],
  ["Q4_0_8_8", 33, 32, 18, "Q4_0"],
  ["TQ1_0", 34, 256, 54, "TQ2_0"],
  ["NVFP4", 40, 64, 36, "MXFP4 or Q4_K"],
  ["Q1_0", 41, 128, 18, "Q8_0"],
] as const;

interface Golden {
  readonly types: Readonly<Record<string, { readonly blocks: string; readonly values: string }>>;
}

/** Blocks and the bits of their values, from llama.cpp's Python package. */
function reference(type: string): { readonly blocks: Uint8Array; readonly bits: Uint32Array } {
  const { blocks, values } = (golden("gguf-types") as Golden).types[type] ?? { blocks: "", values: "" };
  return {
    blocks: new Uint8Array(Buffer.from(blocks, "base64")),
    bits: bitsOf(new Float32Array(new Uint8Array(inflateSync(Buffer.from(values, "base64"))).buffer)),
  };
}

/** The bits of values, the same for all NaN. */
function bitsOf(values: Float32Array): Uint32Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return bits.map((word) => ((word & 0x7fff_ffff) > 0x7f80_0000 ? 0x7fc0_0000 : word));
}

async function fileOf(file: HandMadeGguf): Promise<string> {
  const path = join(await temporaryFolder(), "model.gguf");
  await writeFile(path, handMadeGguf(file).bytes);
  return path;
}

/** Random blocks whose scale, a F16 field at the end of each, is finite. */
function randomBlocksWithScaleLast(numBlocks: number, blockBytes: number, seed: number): Uint8Array {
  const blocks = randomBlocks(numBlocks, blockBytes, 0, seed);
  for (let end = blockBytes; end <= blocks.length; end += blockBytes) blocks[end - 1] = (blocks[end - 1] ?? 0) & 0xbf;
  return blocks;
}

describe("GGUF block types", () => {
  test("are all tested here, those that are read and those that are refused", () => {
    const types = [...GGML_TYPES].map(([number, type]) => ({ number, ...type }));
    const read = types.filter(({ stored, blockValues }) => stored !== undefined && blockValues > 1);
    expect(read.map((one) => [one.stored, one.number, one.blockValues, one.blockBytes])).toStrictEqual(TYPES);
    const refused = types.filter(({ stored }) => stored === undefined);
    expect(refused.map((one) => [one.name, one.number, one.blockValues, one.blockBytes, one.instead])).toStrictEqual(
      REFUSED,
    );
  });

  test.each(REFUSED)("%s is refused by name, with what to take instead", async (name, type, size, bytes, instead) => {
    const data = new Uint8Array(2 * bytes);
    const path = await fileOf({ tensors: [{ name: "x", dimensions: [size, 2], type, data }] });
    const file = await GgufFile.open(path);
    expect(file.tensors.get("x")).toMatchObject({ shape: [2, size], byteLength: data.length, type: { name } });
    const reason = `has the ggml type ${name}, which is not supported; take a file with ${instead} instead`;
    await expectReadMeError(file.readFloats("x"), "ERR_MODEL_UNSUPPORTED", `${path}: tensor "x" ${reason}`);
    await expectReadMeError(file.readBytes("x"), "ERR_MODEL_UNSUPPORTED", reason);
    expect(() => file.info("x")).toThrow(reason);
    await file.close();
  });

  test.each(TYPES)("%s has the same bits as in llama.cpp's package", async (name, type, size, bytes) => {
    const { blocks, bits } = reference(name);
    const numBlocks = blocks.length / bytes;
    expect(bits.length).toBe(numBlocks * size);
    const path = await fileOf({ tensors: [{ name: "x", dimensions: [size, numBlocks], type, data: blocks }] });
    const file = await GgufFile.open(path);
    expect(file.info("x")).toEqual({ name: "x", type: name, shape: [numBlocks, size], byteLength: blocks.length });
    expect(bitsOf(await file.readFloats("x"))).toEqual(bits);
    // Wherever in memory the blocks are.
    const shifted = new Uint8Array(blocks.length + 1);
    shifted.set(blocks, 1);
    expect(bitsOf(file.decode("x", shifted.subarray(1)))).toEqual(bits);
    expect(file.decode("x", new Uint8Array(0))).toEqual(new Float32Array(0));
    await file.close();
  });

  test.each([
    ["Q4_K", Q4_K, randomBlocks(200, Q4_K_BYTES, 2, 4), plainQ4K],
    ["Q6_K", 14, randomBlocksWithScaleLast(200, 210, 6), plainQ6K],
  ] as const)("%s has the values that its description gives", async (name, type, blocks, plain) => {
    const { blocks: edges, bits } = reference(name);
    expect(bitsOf(Float32Array.from({ length: bits.length }, (_, i) => plain(edges, i)))).toEqual(bits);
    const file = await GgufFile.open(
      await fileOf({ tensors: [{ name: "x", dimensions: [256, 200], type, data: blocks }] }),
    );
    const expected = Float32Array.from({ length: 256 * 200 }, (_, i) => plain(blocks, i));
    expect(bitsOf(await file.readFloats("x"))).toEqual(bitsOf(expected));
    await file.close();
  });

  test.each(TYPES)("%s is refused by name in rows of partial blocks", async (name, type, size, bytes) => {
    // As many values as whole blocks have, but not in a row.
    const whole = new Uint8Array(3 * bytes);
    for (const dimensions of [[size / 2, 6], [size + 16, 2], [size - 1]]) {
      const path = await fileOf({ tensors: [{ name: "odd", dimensions, type, data: whole }] });
      const blocksOf = `${name} blocks of ${size}`;
      await expectReadMeError(GgufFile.open(path), "ERR_FILE_CORRUPT", path, '"odd"', String(dimensions[0]), blocksOf);
    }
  });
});

describe("a GGUF file with Q4_K tensors", () => {
  test("is read in ranges of rows with several blocks each", async () => {
    const [numRows, rowLength, rowBytes] = [5, 768, 3 * Q4_K_BYTES];
    const blocks = randomBlocks(numRows * 3, Q4_K_BYTES, 2, 1);
    const path = await fileOf({
      tensors: [
        { name: "before", dimensions: [1], type: 0, data: new Uint8Array(4) },
        { name: "x", dimensions: [rowLength, numRows], type: Q4_K, data: blocks },
        { name: "vector", dimensions: [512], type: Q4_K, data: blocks.subarray(0, 2 * Q4_K_BYTES) },
      ],
    });
    const values = Float32Array.from({ length: numRows * rowLength }, (_, i) => plainQ4K(blocks, i));
    const file = await GgufFile.open(path);
    expect(file.info("x")).toEqual({
      name: "x",
      type: "Q4_K",
      shape: [numRows, rowLength],
      byteLength: numRows * rowBytes,
    });
    expect(await file.readFloats("x")).toEqual(values);
    for (let from = 0; from <= numRows; from++) {
      for (let to = from; to <= numRows; to++) {
        expect(await file.readFloats("x", { from, to })).toEqual(values.slice(from * rowLength, to * rowLength));
        expect(await file.readBytes("x", { from, to })).toEqual(blocks.slice(from * rowBytes, to * rowBytes));
      }
    }
    // Rows of a vector are single values, which share blocks.
    expect(await file.readFloats("vector", { from: 250, to: 260 })).toEqual(values.slice(250, 260));
    await expectReadMeError(file.readBytes("vector", { from: 250, to: 260 }), "ERR_MODEL_UNSUPPORTED", '"vector"');
    await file.close();
  });

  test("has q and k rows reordered to Hugging Face's order as whole blocks, in any range", async () => {
    const [headSize, rowLength, rowBytes] = [4, 512, 2 * Q4_K_BYTES];
    const blocksOf = { q: randomBlocks(16 * 2, Q4_K_BYTES, 2, 2), k: randomBlocks(8 * 2, Q4_K_BYTES, 2, 3) };
    const path = await fileOf({
      entries: [
        textEntry("general.architecture", "llama"),
        u32Entry("llama.attention.head_count", 4),
        u32Entry("llama.attention.head_count_kv", 2),
      ],
      tensors: [
        { name: "blk.0.attn_q.weight", dimensions: [rowLength, 16], type: Q4_K, data: blocksOf.q },
        { name: "blk.0.attn_k.weight", dimensions: [rowLength, 8], type: Q4_K, data: blocksOf.k },
        { name: "blk.0.attn_v.weight", dimensions: [rowLength, 8], type: Q4_K, data: blocksOf.k },
      ],
    });
    const store = await GgufTensorStore.open(path);
    for (const [part, numRows] of [
      ["q", 16],
      ["k", 8],
    ] as const) {
      const name = `model.layers.0.self_attn.${part}_proj.weight`;
      const blocks = new Uint8Array(numRows * rowBytes);
      for (let fileRow = 0; fileRow < numRows; fileRow++) {
        // The file goes pair by pair: 0, 2, 1, 3 of each head of 4.
        const row = fileRow - (fileRow % headSize) + ([0, 2, 1, 3][fileRow % headSize] ?? 0);
        blocks.set(blocksOf[part].subarray(fileRow * rowBytes, (fileRow + 1) * rowBytes), row * rowBytes);
      }
      const values = Float32Array.from({ length: numRows * rowLength }, (_, i) => plainQ4K(blocks, i));
      expect(store.info(name)).toMatchObject({ type: "Q4_K", shape: [numRows, rowLength] });
      expect(await store.readBytes(name)).toEqual(blocks);
      expect(await store.readFloats(name)).toEqual(values);
      for (const [from, to] of [
        [0, 1],
        [1, 4],
        [2, 7],
        [5, 5],
        [numRows - 1, numRows],
      ] as const) {
        expect(await store.readFloats(name, { from, to })).toEqual(values.slice(from * rowLength, to * rowLength));
        expect(await store.readBytes(name, { from, to })).toEqual(blocks.slice(from * rowBytes, to * rowBytes));
      }
    }
    expect(await store.readBytes("model.layers.0.self_attn.v_proj.weight")).toEqual(blocksOf.k);
    await store.close();
  });
});
