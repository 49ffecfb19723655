// GGUF files written again in mixes of block types: what changes, what stays, and what the model still knows.

import { readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { GgufFile, openModel } from "@readme-moe/model";
import { type BlockMixName, exportGguf, type GgufExportOptions, roundToBlocks } from "@readme-moe/refactor";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { typeInMix } from "../../packages/refactor/src/blocks/block-mixes.ts";
import { madeTokenizer, writeModelGguf } from "../support/gguf/convert-model.ts";
import { mixtureFolder, withModel } from "../support/mixture-folder.ts";
import { POCKET } from "../support/pocket.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { pocketTexts } from "../support/pocket-texts.ts";

let source: string;

beforeAll(async () => {
  source = join(await persistentFolder(), "pocket.gguf");
  await withModel(POCKET, async (model) => writeModelGguf(model, source, "F16", await madeTokenizer(model)));
});

/** Exports a file to a new one. */
async function exported(options: GgufExportOptions, from = source): Promise<string> {
  const path = join(await temporaryFolder(), `${options.mix}.gguf`);
  await withModel(from, (model) => exportGguf(model, path, options));
  return path;
}

async function opened(path: string): Promise<GgufFile> {
  const file = await GgufFile.open(path);
  onTestFinished(() => file.close());
  return file;
}

/** Types of the pocket model's matrices: layers 2 and 5 of its six get more bits, and a key has two queries. */
const PLACE = { numLayers: 6, queriesPerKey: 2 };
const EXPECTED: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  q2_k: { token_embd: "Q6_K", attn_q: "Q2_K", attn_v: "Q3_K", attn_output: "Q3_K", ffn_up: "Q2_K", ffn_down: "Q3_K" },
  q3_k_m: { attn_k: "Q3_K", "1.attn_v": "Q5_K", "2.attn_v": "Q4_K", attn_output: "Q4_K", "0.ffn_down": "Q4_K" },
  q4_k_m: { ffn_gate: "Q4_K", "0.ffn_down": "Q4_K", "2.ffn_down": "Q6_K", "3.attn_v": "Q4_K", "5.attn_v": "Q6_K" },
  q4_k_s: { "3.attn_v": "Q5_K", "4.attn_v": "Q4_K", "0.ffn_down": "Q4_K", token_embd: "Q6_K" },
  q6_k: { token_embd: "Q6_K", ffn_gate: "Q6_K", ffn_down: "Q6_K" },
  q8_0: { token_embd: "Q8_0", attn_v: "Q8_0" },
  q4_0: { token_embd: "Q6_K", ffn_down: "Q4_0" },
};

test.each(Object.entries(EXPECTED))("%s gives tensors the types that llama.cpp gives them", async (mix, types) => {
  const file = await opened(source);
  for (const [part, type] of Object.entries(types)) {
    const names = [...file.tensors.keys()].filter((name) => name.endsWith(`${part}.weight`));
    expect(names.length).toBeGreaterThan(0);
    for (const name of names) {
      const place = { ...PLACE, isHead: name === "token_embd.weight" };
      expect(`${name} ${typeInMix(mix as BlockMixName, name, place)}`).toBe(`${name} ${type}`);
    }
  }
  expect(typeInMix(mix as BlockMixName, "blk.0.ffn_gate_inp.weight", { ...PLACE, isHead: false })).toBeUndefined();
});

test("copies metadata and vectors, and rounds matrices row by row", async () => {
  const file = await opened(await exported({ mix: "q3_k_s" }));
  const before = await opened(source);
  expect([...file.tensors.keys()]).toEqual([...before.tensors.keys()]);
  const changed = new Map(before.metadata).set("general.file_type", 11).set("general.quantization_version", 2);
  expect(new Map(file.metadata)).toEqual(changed);
  expect(file.info("token_embd.weight").type).toBe("Q6_K");
  expect(await file.readBytes("output_norm.weight")).toEqual(await before.readBytes("output_norm.weight"));
  const values = await before.readFloats("blk.3.ffn_down.weight");
  expect(await file.readBytes("blk.3.ffn_down.weight")).toEqual(roundToBlocks(values, "Q3_K"));
});

test("keeps the bits of tensors that have no more than the mix gives them", async () => {
  const small = await exported({ mix: "q3_k_s" });
  const [file, before] = [await opened(await exported({ mix: "q6_k" }, small)), await opened(small)];
  for (const name of before.tensors.keys()) expect(await file.readBytes(name)).toEqual(await before.readBytes(name));
});

test("gives rows that are no whole blocks of 256 blocks of 32, and those of neither half precision", async () => {
  const path = join(await temporaryFolder(), "mixture.gguf");
  const folder = await mixtureFolder({ modelType: "olmoe", hiddenSize: 96, headSize: 24, numHeads: 4, expertSize: 40 });
  await withModel(folder, (model) => writeModelGguf(model, path, "F32"));
  const typesOf = async (mix: BlockMixName): Promise<readonly string[]> => {
    const file = await opened(await exported({ mix }, path));
    return ["attn_q", "ffn_up_exps", "ffn_down_exps", "ffn_gate_inp"].map(
      (part) => file.info(`blk.0.${part}.weight`).type,
    );
  };
  expect(await typesOf("q4_k_s")).toEqual(["Q5_0", "Q5_0", "F16", "F32"]);
  expect(await typesOf("q2_k")).toEqual(["Q4_0", "Q4_0", "F16", "F32"]);
  expect(await typesOf("q6_k")).toEqual(["Q8_0", "Q8_0", "F16", "F32"]);
});

/** Mean loss of the model on a text that it was not made from. */
async function lossOf(path: string): Promise<number> {
  await using running = await runningModel(path, undefined, "file", await temporaryFolder());
  const { tokenizer } = await withModel(POCKET, (model) => model.loadText());
  const documents = (await pocketTexts(["wikipedia"]))[0]!.documents.slice(-3);
  let [sum, count] = [0, 0];
  for (const text of documents) {
    const ids = Array.from(tokenizer.encode(text)).slice(0, 200);
    const { fullLogits } = await promptLogits(running, ids, Array.from(ids.keys()));
    const width = fullLogits.length / ids.length;
    for (let at = 0; at + 1 < ids.length; at++) {
      const row = fullLogits.subarray(at * width, (at + 1) * width);
      const most = Math.max(...row);
      sum += most + Math.log(row.reduce((all, logit) => all + Math.exp(logit - most), 0)) - row[ids[at + 1]!]!;
      count++;
    }
  }
  return sum / count;
}

test("the engine runs the file, whose loss grows as the bits fall and shrinks with calibration", async () => {
  const dense = await lossOf(source);
  const small = await lossOf(await exported({ mix: "q4_k_m" }));
  const smallest = await lossOf(await exported({ mix: "q2_k" }));
  const calibration = await pocketTexts(["wikipedia", "github"]);
  const calibrated = await lossOf(await exported({ mix: "q2_k", calibration }));
  expect(small).toBeLessThan(dense + 0.02);
  expect(smallest).toBeGreaterThan(small);
  expect(calibrated).toBeLessThan(smallest);
});

test("refuses a model without a GGUF file and a file that exists, and leaves nothing behind when it is stopped", async () => {
  const path = join(await temporaryFolder(), "out.gguf");
  await withModel(POCKET, (model) =>
    expect(exportGguf(model, path, { mix: "q8_0" })).rejects.toThrow(/Expected a model in a GGUF file.*pocket/),
  );
  const model = await openModel(source);
  onTestFinished(() => model.close());
  const stop = new AbortController();
  const stopped = exportGguf(model, path, { mix: "q8_0", signal: stop.signal, onProgress: () => stop.abort() });
  await expect(stopped).rejects.toThrow();
  expect(await readdir(dirname(path))).toEqual([]);
  await writeFile(path, "old");
  await expectReadMeError(exportGguf(model, path, { mix: "q8_0" }), "ERR_WRITE_FAILED", "exists already");
});
