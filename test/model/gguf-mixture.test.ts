// Experts in GGUF files: matrices within tensors of three dimensions in each type, and the names of other converters.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { GgufTensorStore, openModel } from "@readme-moe/model";
import { expect, test } from "vitest";
import { TensorParts } from "../../packages/model/src/weights/tensor-parts.ts";
import { entry, f32, type HandMadeTensor, handMadeGguf, textEntry, u32Entry } from "../support/gguf-bytes.ts";
import { randomBlocks } from "../support/plain-blocks.ts";
import { randomNormal, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Name, number, bytes and values of a block, and how many F16 fields are in front. */
const TYPES = [
  ["F32", 0, 4, 1, 0],
  ["F16", 1, 2, 1, 1],
  ["Q4_0", 2, 18, 32, 1],
  ["Q4_1", 3, 20, 32, 2],
  ["Q5_0", 6, 22, 32, 1],
  ["Q5_1", 7, 24, 32, 2],
  ["Q8_0", 8, 34, 32, 1],
  ["Q2_K", 10, 84, 256, 0],
  ["Q3_K", 11, 110, 256, 0],
  ["Q4_K", 12, 144, 256, 2],
  ["Q5_K", 13, 176, 256, 2],
  ["Q6_K", 14, 210, 256, 0],
  ["IQ4_NL", 20, 18, 32, 1],
  ["IQ4_XS", 23, 136, 256, 1],
  ["BF16", 30, 2, 1, 1],
  ["TQ2_0", 35, 66, 256, 0],
  ["MXFP4", 39, 17, 32, 0],
] as const;

const [NUM_EXPERTS, NUM_ROWS, NUM_COLUMNS] = [3, 10, 512];

test.each(TYPES)("a matrix of a stack in %s has the numbers of its rows", async (name, type, bytes, values, halves) => {
  const data = randomBlocks((NUM_EXPERTS * NUM_ROWS * NUM_COLUMNS) / values, bytes, halves, 5);
  const path = join(await temporaryFolder(), `${name}.gguf`);
  const dimensions = [NUM_COLUMNS, NUM_ROWS, NUM_EXPERTS];
  const tensors = [{ name: "blk.0.ffn_up_exps.weight", dimensions, type, data }];
  await writeFile(path, handMadeGguf({ entries: [textEntry("general.architecture", "olmoe")], tensors }).bytes);
  const store = await GgufTensorStore.open(path);
  const [source] = store.names as readonly [string];
  expect(source).toBe("model.layers.0.mlp.experts.up_proj.weight");
  const whole = await store.readFloats(source);
  const part = (matrix: number, from: number, to: number) => {
    const rows = { from: matrix * NUM_ROWS + from, to: matrix * NUM_ROWS + to, axes: 2 };
    return new TensorParts(store, new Map([["part", { of: source, rows }]]));
  };
  const blockBytes = (NUM_ROWS * NUM_COLUMNS * bytes) / values;
  for (let matrix = 0; matrix < NUM_EXPERTS; matrix++) {
    const slices = part(matrix, 0, NUM_ROWS);
    const first = matrix * NUM_ROWS * NUM_COLUMNS;
    const own = whole.slice(first, first + NUM_ROWS * NUM_COLUMNS);
    expect(await slices.readFloats("part")).toEqual(own);
    const rows = { from: 3, to: 7 };
    expect(await slices.readFloats("part", rows)).toEqual(own.slice(3 * NUM_COLUMNS, 7 * NUM_COLUMNS));
    expect(slices.info("part")).toMatchObject({ type: name, shape: [NUM_ROWS, NUM_COLUMNS], byteLength: blockBytes });
    const ownBytes = data.slice(matrix * blockBytes, (matrix + 1) * blockBytes);
    expect(Buffer.compare(await slices.readBytes("part"), ownBytes)).toBe(0);
  }
  const half = part(1, 5, 10);
  expect(await half.readFloats("part")).toEqual(whole.slice(15 * NUM_COLUMNS, 20 * NUM_COLUMNS));
  await expect(half.readFloats("part", { from: 0, to: 6 })).rejects.toThrow(RangeError);
  const { offset, byteLength } = half.placeOf("part") ?? {};
  expect([(offset ?? 0) - (store.placeOf(source)?.offset ?? 0), byteLength]).toEqual([
    1.5 * blockBytes,
    blockBytes / 2,
  ]);
  expect(() => part(3, 0, 1).info("part")).toThrow(RangeError);
  await expect(store.readFloats(source, { from: 0, to: 31, axes: 2 })).rejects.toThrow(RangeError);
  await expect(store.readFloats(source, { from: 0, to: 1, axes: 3 })).rejects.toThrow(RangeError);
  await store.close();
});

const SIZES = { embedding_length: 8, feed_forward_length: 6, block_count: 1, context_length: 32 };
const HEADS = { "attention.head_count": 2, "attention.head_count_kv": 1, expert_count: 3, expert_used_count: 2 };

/** Numbers of a tensor that depend on its name alone. */
function floatsOf(name: string, length: number): Float32Array {
  const random = seededRandom(name.length + 7 * name.charCodeAt(name.length - 1) + length);
  return Float32Array.from({ length }, () => randomNormal(random));
}

function tensor(name: string, dimensions: readonly number[], values?: Float32Array): HandMadeTensor {
  const numbers =
    values ??
    floatsOf(
      name,
      dimensions.reduce((product, size) => product * size, 1),
    );
  return { name, dimensions, type: 0, data: new Uint8Array(numbers.buffer) };
}

function joined(parts: readonly Float32Array[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => Array.from(part)));
}

/** The experts of the file's only layer, by product. */
const EXPERTS = Array.from({ length: 3 }, (_, expert) => ({
  gate: floatsOf(`gate ${expert}`, 48),
  up: floatsOf(`up ${expert}`, 48),
  down: floatsOf(`down ${expert}`, 48),
}));

const LAYOUTS: Readonly<Record<string, readonly HandMadeTensor[]>> = {
  "three stacks": [
    tensor("blk.0.ffn_gate_exps.weight", [8, 6, 3], joined(EXPERTS.map(({ gate }) => gate))),
    tensor("blk.0.ffn_up_exps.weight", [8, 6, 3], joined(EXPERTS.map(({ up }) => up))),
    tensor("blk.0.ffn_down_exps.weight", [6, 8, 3], joined(EXPERTS.map(({ down }) => down))),
  ],
  "gate and up in one stack": [
    tensor("blk.0.ffn_gate_up_exps.weight", [8, 12, 3], joined(EXPERTS.flatMap(({ gate, up }) => [gate, up]))),
    tensor("blk.0.ffn_down_exps.weight", [6, 8, 3], joined(EXPERTS.map(({ down }) => down))),
  ],
  "a tensor for each expert": EXPERTS.flatMap(({ gate, up, down }, expert) => [
    tensor(`blk.0.ffn_gate.${expert}.weight`, [8, 6], gate),
    tensor(`blk.0.ffn_up.${expert}.weight`, [8, 6], up),
    tensor(`blk.0.ffn_down.${expert}.weight`, [6, 8], down),
  ]),
};

test.each(Object.entries(LAYOUTS))("reads experts of %s", async (_, experts) => {
  const path = join(await temporaryFolder(), "model.gguf");
  const tensors = [
    tensor("token_embd.weight", [8, 16]),
    tensor("output_norm.weight", [8]),
    tensor("blk.0.attn_norm.weight", [8]),
    tensor("blk.0.attn_q.weight", [8, 8]),
    tensor("blk.0.attn_k.weight", [8, 4]),
    tensor("blk.0.attn_v.weight", [8, 4]),
    tensor("blk.0.attn_output.weight", [8, 8]),
    tensor("blk.0.ffn_norm.weight", [8]),
    tensor("blk.0.ffn_gate_inp.weight", [8, 3]),
    ...experts,
  ];
  const entries = [
    textEntry("general.architecture", "llama"),
    ...Object.entries({ ...SIZES, ...HEADS }).map(([key, value]) => u32Entry(`llama.${key}`, value)),
    entry("llama.attention.layer_norm_rms_epsilon", 6, f32(1e-5)),
  ];
  await writeFile(path, handMadeGguf({ entries, tensors }).bytes);
  const model = await openModel(path);
  const { mixture } = model.weights.layers[0] ?? {};
  expect(mixture?.experts.length).toBe(3);
  for (const [expert, refs] of (mixture?.experts ?? []).entries()) {
    for (const product of ["gate", "up", "down"] as const) {
      const { weight } = refs[product];
      expect(weight.shape).toEqual(product === "down" ? [8, 6] : [6, 8]);
      expect(await weight.store.readFloats(weight.name)).toEqual(EXPERTS[expert]?.[product]);
    }
  }
  await model.close();
});
