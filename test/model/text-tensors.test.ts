// The text part of checkpoints that have images, and norms that are stored as differences from 1.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { baseFiles, openModel, readMeTensors, SafetensorsFile, verifyModel, writeSafetensors } from "@readme-moe/model";
import { expect, test } from "vitest";
import { GgufTensorStore } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { fixture } from "../support/fixtures.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const GEMMA = fixture("families/gemma3");
const IDS = [3, 17, 99, 4, 8, 2, 101, 64, 55];

/** Writes the fixture as a checkpoint with images would have it. @param rename - of a tensor */
async function multimodal(rename: (name: string) => string, further: readonly string[] = []): Promise<string> {
  const path = await temporaryFolder();
  const store = await SafetensorsFile.open(join(GEMMA, "model.safetensors"));
  const tensors = [...store.names, ...further.map(() => "model.norm.weight")].map((name, index) => ({
    name: further[index - store.names.length] ?? rename(name),
    type: "F32" as const,
    shape: store.info(name).shape,
    bytes: () => store.readBytes(name),
  }));
  await writeSafetensors(join(path, "model.safetensors"), tensors);
  await store.close();
  const text_config: unknown = JSON.parse(await readFile(join(GEMMA, "config.json"), "utf8"));
  const config = { model_type: "gemma3", text_config, vision_config: { model_type: "siglip_vision_model" } };
  await writeFile(join(path, "config.json"), JSON.stringify(config));
  return path;
}

const behindModel = (name: string): string => name.replace(/^model\./, "model.language_model.");

test.each([
  ["transformers 4.52 and later", behindModel],
  ["earlier transformers", (name: string) => `language_model.${name}`],
  ["a checkpoint of text", (name: string) => name],
])("the text part of a config with images is the same model, named as by %s", async (_, rename) => {
  await using expected = await runningModel(GEMMA);
  await using part = await runningModel(await multimodal(rename));
  await verifyModel(part.model);
  const [wanted, found] = [await promptLogits(expected, IDS), await promptLogits(part, IDS)];
  expect(found.fullLogits).toEqual(wanted.fullLogits);
  const files = await baseFiles(part.model);
  expect(files.config).toMatchObject({ model_type: "gemma3", text_config: { model_type: "gemma3_text" } });
});

test("the tensors of an image tower are not read", async () => {
  const towers = [
    "model.vision_tower.vision_model.post_layernorm.weight",
    "multi_modal_projector.mm_soft_emb_norm.weight",
  ];
  await using expected = await runningModel(GEMMA);
  await using part = await runningModel(await multimodal(behindModel, towers));
  const [wanted, found] = [await promptLogits(expected, IDS), await promptLogits(part, IDS)];
  expect(found.fullLogits).toEqual(wanted.fullLogits);
});

test("a missing tensor is named as in a checkpoint of text", async () => {
  const path = await multimodal((name) => behindModel(name).replace("q_norm", "r_norm"));
  await expectReadMeError(openModel(path), "ERR_MODEL_INVALID", "model.layers.0.self_attn.q_norm.weight");
});

test("norms of a GGUF file come without the offset that the file has added", async () => {
  const path = join(await temporaryFolder(), "model.gguf");
  const model = await openModel(GEMMA);
  await writeModelGguf(model, path, "F32");
  const file = await GgufTensorStore.open(path);
  const { store } = model.weights.embedding;
  const norms = file.names.filter((name) => name.endsWith("norm.weight"));
  expect(norms).toHaveLength(6 * 6 + 1);
  for (const name of norms) {
    const values = await file.readFloats(name);
    expect(largestDifference(values, await store.readFloats(name))).toBeLessThan(1e-7);
    expect(file.info(name)).toEqual({ name, type: "F32", shape: [values.length], byteLength: 4 * values.length });
    expect(new Float32Array((await file.readBytes(name)).slice().buffer)).toEqual(values);
    expect(await file.readFloats(name, { from: 1, to: 3 })).toEqual(values.slice(1, 3));
  }
  // Files are opened with the offset, and Read-ME folders are written without it.
  const opened = await openModel(path);
  const [written] = readMeTensors(opened.weights, undefined).backbone.filter(
    ({ name }) => name === "model.norm.weight",
  );
  const bytes = await written?.bytes();
  expect(bytes).toEqual(await file.readBytes("model.norm.weight"));
  await Promise.all([model.close(), file.close(), opened.close()]);
});
