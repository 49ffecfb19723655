import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { GgufTensorStore, hfNameOf, pairedRowOf } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { SafetensorsFile } from "../../packages/model/src/safetensors/safetensors-file.ts";
import type { TensorStore } from "../../packages/model/src/tensor-store.ts";
import { entry, handMadeGguf, type HandMadeTensor, textEntry, u32, u32Entry, u64 } from "../support/gguf-bytes.ts";
import { ggmlNameOf, readPairedRows } from "../support/gguf/convert-model.ts";
import { type GgufInput, writeGguf } from "../support/gguf/write-gguf.ts";
import { randomBlocks } from "../support/plain-blocks.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { sharedModel } from "../support/shared.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const Q_WEIGHT = "model.layers.0.self_attn.q_proj.weight";
const K_WEIGHT = "model.layers.0.self_attn.k_proj.weight";

// Of the fixtures used here.
const NUM_HEADS = 4;
const NUM_KEY_HEADS = 2;
const FIXTURES = join(import.meta.dirname, "..", "fixtures", "families");

async function storeOf(entries: readonly Buffer[], tensors: readonly HandMadeTensor[]): Promise<GgufTensorStore> {
  const path = join(await temporaryFolder(), "model.gguf");
  await writeFile(path, handMadeGguf({ entries, tensors }).bytes);
  return GgufTensorStore.open(path);
}

function f32Tensor(name: string, dimensions: readonly number[], values: readonly number[]): HandMadeTensor {
  return { name, dimensions, type: 0, data: new Uint8Array(Float32Array.from(values).buffer) };
}

/** File row `h * headSize + 2 * i + s` is row `h * headSize + s * headSize / 2 + i` of the Hugging Face tensor. */
function hfRowOf(fileRow: number, headSize: number): number {
  const [head, inHead] = [Math.floor(fileRow / headSize), fileRow % headSize];
  return head * headSize + (inHead % 2) * (headSize / 2) + Math.floor(inHead / 2);
}

const wholeHead = (headSize: number) => ({ headSize, rotatedSize: headSize });

/** In the file's order; the first value of each row is the Hugging Face row that it is. */
function namedRows(numRows: number, rowLength: number): number[] {
  const at = Array.from({ length: numRows * rowLength }, (_, index) => index);
  return at.map((index) => hfRowOf(Math.floor(index / rowLength), 4) + (index % rowLength) / 10);
}

/** 3 query heads and 1 key head of 4 rows. */
function attention(architecture: string, ...more: readonly Buffer[]): Promise<GgufTensorStore> {
  const counts = [
    u32Entry(`${architecture}.attention.head_count`, 3),
    u32Entry(`${architecture}.attention.head_count_kv`, 1),
  ];
  return storeOf(
    [textEntry("general.architecture", architecture), ...counts, ...more],
    [
      f32Tensor("blk.0.attn_q.weight", [2, 12], namedRows(12, 2)),
      f32Tensor("blk.0.attn_k.weight", [2, 4], namedRows(4, 2)),
      f32Tensor("blk.0.attn_q.bias", [12], namedRows(12, 1)),
      f32Tensor("blk.0.attn_v.weight", [2, 4], namedRows(4, 2)),
    ],
  );
}

function rowNames(values: Float32Array, rowLength: number): number[] {
  return [...values].filter((_, i) => i % rowLength === 0).map(Math.round);
}

describe("names", () => {
  test.each([
    ["token_embd.weight", "model.embed_tokens.weight"],
    ["output.weight", "lm_head.weight"],
    ["output_norm.weight", "model.norm.weight"],
    ["blk.0.attn_q.weight", Q_WEIGHT],
    ["blk.12.attn_k.bias", "model.layers.12.self_attn.k_proj.bias"],
    ["blk.1.attn_v.bias", "model.layers.1.self_attn.v_proj.bias"],
    ["blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight"],
    ["blk.1.attn_norm.weight", "model.layers.1.input_layernorm.weight"],
    ["blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"],
    ["blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight"],
    ["blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"],
    ["blk.1.ffn_gate.weight", "model.layers.1.mlp.gate_proj.weight"],
    ["blk.1.ffn_up.bias", "model.layers.1.mlp.up_proj.bias"],
    ["blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"],
  ])("%s is %s, and back", (ggmlName, hfName) => {
    expect(hfNameOf(ggmlName)).toBe(hfName);
    expect(ggmlNameOf(hfName)).toBe(ggmlName);
  });

  test.each([
    "rope_freqs.weight",
    "blk.0.unknown.weight",
    "blk.x.attn_q.weight",
    "blk.01.attn_q.weight",
    "attn_q.weight",
    "output",
    "",
  ])("%j has no other name", (name) => {
    expect(hfNameOf(name)).toBe(name);
    expect(ggmlNameOf(name)).toBe(name);
  });
});

describe("GgufTensorStore", () => {
  test("lists Hugging Face names, keeps unknown names, and hides the file's names", async () => {
    const store = await storeOf(
      [textEntry("general.architecture", "llama")],
      [f32Tensor("token_embd.weight", [2, 3], [1, 2, 3, 4, 5, 6]), f32Tensor("rope_freqs.weight", [1], [1])],
    );
    expect(store.names).toEqual(["model.embed_tokens.weight", "rope_freqs.weight"]);
    expect(store.has("token_embd.weight")).toBe(false);
    expect(store.has("lm_head.weight")).toBe(false);
    const info = { name: "model.embed_tokens.weight", type: "F32", shape: [3, 2], byteLength: 24 };
    expect(store.info("model.embed_tokens.weight")).toEqual(info);
    expect(await store.readFloats("model.embed_tokens.weight", { from: 2, to: 3 })).toEqual(Float32Array.of(5, 6));
    await expectReadMeError(
      store.readFloats("token_embd.weight"),
      "ERR_MODEL_INVALID",
      store.path,
      '"token_embd.weight"',
    );
    await store.close();
  });

  test("reorders only q and k rows and biases of llama files to Hugging Face's order", async () => {
    const store = await attention("llama");
    const inOrder = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    expect(rowNames(await store.readFloats(Q_WEIGHT), 2)).toEqual(inOrder);
    expect(rowNames(await store.readFloats("model.layers.0.self_attn.q_proj.bias"), 1)).toEqual(inOrder);
    expect(rowNames(await store.readFloats(K_WEIGHT), 2)).toEqual([0, 1, 2, 3]);
    expect(rowNames(await store.readFloats("model.layers.0.self_attn.v_proj.weight"), 2)).toEqual([0, 2, 1, 3]);
    // Values within a row stay where they are.
    expect((await store.readFloats(Q_WEIGHT)).slice(0, 4)).toEqual(Float32Array.of(0, 0.1, 1, 1.1));
    await store.close();
  });

  test("leaves rows behind the rotated ones of each head where they are", async () => {
    const partial = u32Entry("llama.rope.dimension_count", 2);
    const store = await attention("llama", partial);
    const original = await attention("qwen2", partial);
    const [rows, fileRows] = [await store.readFloats(Q_WEIGHT), await original.readFloats(Q_WEIGHT)];
    // Pairs of 2 rows are the same in both orders.
    expect(rows).toEqual(fileRows);
    const wrong = await attention("llama", u32Entry("llama.rope.dimension_count", 3));
    await expectReadMeError(wrong.readFloats(Q_WEIGHT), "ERR_MODEL_INVALID", "llama.rope.dimension_count", "4");
    await Promise.all([store.close(), original.close(), wrong.close()]);
    const places = Array.from({ length: 12 }, (_, row) => pairedRowOf(row, { headSize: 6, rotatedSize: 4 }));
    expect(places).toEqual([0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
  });

  test("reads any range of reordered rows", async () => {
    const store = await attention("llama");
    const whole = await store.readFloats(Q_WEIGHT);
    for (let from = 0; from <= 12; from++) {
      for (let to = from; to <= 12; to++) {
        expect(await store.readFloats(Q_WEIGHT, { from, to })).toEqual(whole.slice(2 * from, 2 * to));
        const bytes = await store.readBytes(Q_WEIGHT, { from, to });
        expect(bytes).toEqual(new Uint8Array(whole.slice(2 * from, 2 * to).buffer));
      }
    }
    await expect(store.readFloats(Q_WEIGHT, { from: 3, to: 13 })).rejects.toThrow(/`rows.to`.*`13`/);
    await store.close();
  });

  test.each(["qwen2", "qwen3"])("leaves the rows of %s files as they are", async (architecture) => {
    const store = await attention(architecture);
    expect(rowNames(await store.readFloats(K_WEIGHT), 2)).toEqual([0, 2, 1, 3]);
    await store.close();
  });

  test("reorders whole rows of quantised blocks, in bytes and in floats", async () => {
    const blocks = randomBlocks(8 * 2, 34, 1, 1);
    const entries = [textEntry("general.architecture", "llama"), u32Entry("llama.attention.head_count", 2)];
    const tensors = [{ name: "blk.0.attn_k.weight", dimensions: [64, 8], type: 8, data: blocks }];
    const [llama, other] = [
      await storeOf(entries, tensors),
      await storeOf([textEntry("general.architecture", "x")], tensors),
    ];
    const [bytes, floats, plainFloats] = [
      await llama.readBytes(K_WEIGHT),
      await llama.readFloats(K_WEIGHT),
      await other.readFloats(K_WEIGHT),
    ];
    for (let fileRow = 0; fileRow < 8; fileRow++) {
      const row = hfRowOf(fileRow, 4);
      expect(bytes.slice(row * 68, row * 68 + 68)).toEqual(blocks.slice(fileRow * 68, fileRow * 68 + 68));
      expect(floats.slice(row * 64, row * 64 + 64)).toEqual(plainFloats.slice(fileRow * 64, fileRow * 64 + 64));
    }
    await llama.close();
    await other.close();
  });

  test("reads head counts that differ by layer", async () => {
    const counts = entry("llama.attention.head_count", 9, u32(5), u64(2), u32(1), u32(2));
    const values = [0, 1, 2, 3, 4, 5, 6, 7];
    const tensors = [f32Tensor("blk.0.attn_q.bias", [8], values), f32Tensor("blk.1.attn_q.bias", [8], values)];
    const store = await storeOf([textEntry("general.architecture", "llama"), counts], tensors);
    expect([...(await store.readFloats("model.layers.0.self_attn.q_proj.bias"))]).toEqual([0, 2, 4, 6, 1, 3, 5, 7]);
    expect([...(await store.readFloats("model.layers.1.self_attn.q_proj.bias"))]).toEqual([0, 2, 1, 3, 4, 6, 5, 7]);
    await store.close();
  });

  test("names the metadata or the tensor when the head size is unknown", async () => {
    const architecture = textEntry("general.architecture", "llama");
    const tensors = [
      f32Tensor(
        "blk.0.attn_q.weight",
        [1, 12],
        Array.from({ length: 12 }, () => 0),
      ),
    ];
    const none = await storeOf([architecture], tensors);
    await expectReadMeError(none.readFloats(Q_WEIGHT), "ERR_MODEL_INVALID", none.path, "llama.attention.head_count");
    for (const count of [5, 4, 12, 24]) {
      const store = await storeOf([architecture, u32Entry("llama.attention.head_count", count)], tensors);
      await expectReadMeError(
        store.readFloats(Q_WEIGHT),
        "ERR_MODEL_INVALID",
        store.path,
        "blk.0.attn_q.weight",
        String(count),
      );
      await store.close();
    }
    await none.close();
  });

  test("does not loop over rows without values", async () => {
    const heads = [textEntry("general.architecture", "llama"), u32Entry("llama.attention.head_count", 2)];
    const store = await storeOf(heads, [{ name: "blk.0.attn_q.weight", dimensions: [0, 2 ** 50], type: 0 }]);
    expect(await store.readFloats(Q_WEIGHT)).toEqual(new Float32Array(0));
    await store.close();
  });

  test("refuses a file without an architecture, and a file with two tensors of the same name", async () => {
    await expectReadMeError(storeOf([], []), "ERR_MODEL_INVALID", "model.gguf", "general.architecture");
    const twice = [f32Tensor("output.weight", [1], [0]), f32Tensor("lm_head.weight", [1], [0])];
    const opening = storeOf([textEntry("general.architecture", "llama")], twice);
    await expectReadMeError(opening, "ERR_FILE_CORRUPT", "model.gguf", '"output.weight"', '"lm_head.weight"');
  });

  test("names an unsupported tensor type, and still reads other tensors", async () => {
    const tensors = [
      { name: "output.weight", dimensions: [256], type: 22, data: new Uint8Array(82) },
      f32Tensor("x", [1], [3]),
    ];
    const store = await storeOf([textEntry("general.architecture", "llama")], tensors);
    expect(store.has("lm_head.weight")).toBe(true);
    expect(() => store.info("lm_head.weight")).toThrow(/IQ2_S/);
    await expectReadMeError(
      store.readFloats("lm_head.weight"),
      "ERR_MODEL_UNSUPPORTED",
      store.path,
      "output.weight",
      "IQ2_S",
    );
    expect(await store.readFloats("x")).toEqual(Float32Array.of(3));
    await store.close();
  });
});

/** Every tensor of a Hugging Face checkpoint, named and its rows ordered as in llama's GGUF files. */
function inputsOf(store: TensorStore, numHeads: number, numKeyHeads: number): GgufInput[] {
  return store.names.map((name) => {
    const { shape } = store.info(name);
    const heads = name.includes("q_proj") ? numHeads : name.includes("k_proj") ? numKeyHeads : undefined;
    const floats = async (): Promise<Float32Array> =>
      heads === undefined
        ? store.readFloats(name)
        : readPairedRows({ store, name, shape }, wholeHead((shape[0] ?? 0) / heads));
    return { name: ggmlNameOf(name), type: "F32", shape, floats };
  });
}

describe("a Hugging Face checkpoint written as GGUF", () => {
  test.each(["llama-tied", "llama-attention-bias"])("reads back to the same values: %s", async (family) => {
    const original = await SafetensorsFile.open(join(FIXTURES, family, "model.safetensors"));
    const path = join(await temporaryFolder(), "model.gguf");
    const inputs = inputsOf(original, NUM_HEADS, NUM_KEY_HEADS);
    const metadata = new Map([
      ["general.architecture", { type: "string", value: "llama" }],
      ["llama.attention.head_count", { type: "uint32", value: NUM_HEADS }],
      ["llama.attention.head_count_kv", { type: "uint32", value: NUM_KEY_HEADS }],
    ] as const);
    await writeGguf(path, inputs, metadata);
    const store = await GgufTensorStore.open(path);
    expect(store.names).toEqual(original.names);
    expect(store.file.tensors.has("blk.0.attn_q.weight")).toBe(true);
    for (const name of original.names) {
      expect(store.info(name).shape).toEqual(original.info(name).shape);
      expect(await store.readFloats(name)).toEqual(await original.readFloats(name));
    }
    await store.close();
    await original.close();
  });
});

const smolLm = sharedModel("smollm2-135m-instruct");

describe("SmolLM2's GGUF file", () => {
  test.skipIf(smolLm === undefined)(
    "has the tensors, shapes and row order of the model (skipped without ../shared/models)",
    async () => {
      const store = await GgufTensorStore.open(join(smolLm ?? "", "SmolLM2-135M-Instruct.Q4_1.gguf"));
      expect(store.names.length).toBe(2 + 30 * 9);
      expect(store.info("model.embed_tokens.weight")).toMatchObject({ type: "Q8_0", shape: [49152, 576] });
      expect(store.info(K_WEIGHT)).toMatchObject({ type: "Q4_1", shape: [192, 576] });
      const rows = await store.readFloats(K_WEIGHT, { from: 64 + 32 + 5, to: 64 + 32 + 6 });
      const fileRow = 64 + 2 * 5 + 1;
      expect(rows).toEqual(await store.file.readFloats("blk.0.attn_k.weight", { from: fileRow, to: fileRow + 1 }));
      expect(store.file.metadata.get("tokenizer.ggml.tokens")).toHaveLength(49152);
      await store.close();
    },
  );
});
