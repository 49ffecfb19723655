// Draft heads: found beside a model, in both names of their layer, and refused when they do not belong to it.

import { cp, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { findDraftHead, type Model, openDraftHead, openModel } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SafetensorsFile, writeSafetensors } from "../../packages/model/src/safetensors/safetensors-file.ts";
import { POCKET, POCKET_HEAD } from "../support/pocket.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

let model: Model;
beforeAll(async () => {
  model = await openModel(POCKET);
});
afterAll(() => model.close());

/** Copies the head with another config, and with its tensors changed. */
async function changed(
  config: object,
  change: (tensors: Map<string, { type: "F16" | "I64"; shape: readonly number[]; bytes: Uint8Array }>) => void = () =>
    undefined,
): Promise<string> {
  const folder = join(await temporaryFolder(), "head");
  await cp(POCKET_HEAD, folder, { recursive: true });
  const json = JSON.parse(await readFile(join(folder, "config.json"), "utf8")) as object;
  await writeFile(join(folder, "config.json"), JSON.stringify({ ...json, ...config }));
  const file = await SafetensorsFile.open(join(POCKET_HEAD, "model.safetensors"));
  const tensors = new Map(
    await Promise.all(
      file.names.map(async (name) => {
        const { type, shape } = file.info(name);
        return [name, { type: type as "F16" | "I64", shape, bytes: await file.readBytes(name) }] as const;
      }),
    ),
  );
  await file.close();
  change(tensors);
  const written = Array.from(tensors, ([name, { bytes, ...info }]) => ({ name, ...info, bytes: async () => bytes }));
  await writeSafetensors(join(folder, "model.safetensors"), written);
  return folder;
}

test("reads layers, tokens and the model's own rows", async () => {
  const head = await openDraftHead(POCKET_HEAD, model);
  expect(head.layers).toEqual([1, 2, 3]);
  expect(head.tokenIds.length).toBe(2048);
  expect(head.config).toMatchObject({ numLayers: 1, hiddenSize: 256, intermediateSize: 128, numKvHeads: 2 });
  const { store, name, shape } = head.weights.head;
  expect(shape).toEqual([2048, 256]);
  const own = await model.weights.head.store.readFloats(model.weights.head.name);
  const rows = await store.readFloats(name, { from: 5, to: 7 });
  const id = head.tokenIds[5]!;
  expect(Array.from(rows.subarray(0, 256))).toEqual(Array.from(own.subarray(id * 256, (id + 1) * 256)));
  await head.close();
});

test("takes the layer's other name, outputs of its own, and the usual layers where none are named", async () => {
  const folder = await changed({ eagle_config: undefined }, (tensors) => {
    for (const [name, tensor] of Array.from(tensors)) {
      if (!name.startsWith("midlayer.")) continue;
      tensors.delete(name);
      tensors.set(name.replace("midlayer", "layers.0"), tensor);
    }
    tensors.set("lm_head.weight", { type: "F16", shape: [2048, 256], bytes: new Uint8Array(2 * 2048 * 256) });
  });
  const head = await openDraftHead(folder, { ...model, config: { ...model.config, numLayers: 12 } });
  expect(head.layers).toEqual([2, 6, 9]);
  expect(head.weights.head.name).toBe("lm_head.weight");
  await head.close();
});

test("is found beside a folder and beside a file", async () => {
  const folder = await temporaryFolder();
  const found = async (path: string): Promise<string | undefined> => {
    const head = await findDraftHead({ ...model, path });
    await head?.close();
    return head?.path;
  };
  expect(await found(folder)).toBeUndefined();
  await cp(POCKET_HEAD, join(folder, "draft-head"), { recursive: true });
  expect(await found(folder)).toBe(join(folder, "draft-head"));
  await rename(join(folder, "draft-head"), join(folder, "model.Q4_K_M.draft-head"));
  expect(await found(join(folder, "model.Q4_K_M.gguf"))).toBe(join(folder, "model.Q4_K_M.draft-head"));
  expect(await findDraftHead({ ...model, path: folder }, "none")).toBeUndefined();
});

test.each<[string, object, "ERR_MODEL_UNSUPPORTED" | "ERR_MODEL_INVALID", string]>([
  ["another width", { hidden_size: 128 }, "ERR_MODEL_UNSUPPORTED", "`hiddenSize` 128, not 256"],
  ["another vocabulary", { vocab_size: 5000 }, "ERR_MODEL_UNSUPPORTED", "`vocabSize` 5000, not 4096"],
  ["several layers", { num_hidden_layers: 2 }, "ERR_MODEL_UNSUPPORTED", "num_hidden_layers"],
  ["another family", { model_type: "gemma2" }, "ERR_MODEL_UNSUPPORTED", "model_type"],
  [
    "layers that the model lacks",
    { eagle_config: { eagle_aux_hidden_state_layer_ids: [1, 2, 6] } },
    "ERR_MODEL_INVALID",
    "layers of a model of 6 layers in rising order, got [1,2,6]",
  ],
  ["more outputs than it has", { draft_vocab_size: 2049 }, "ERR_MODEL_INVALID", "d2t"],
  ["an FFN of another size", { intermediate_size: 64 }, "ERR_MODEL_INVALID", "mlp"],
])("is refused with %s", async (_, config, code, message) => {
  await expectReadMeError(openDraftHead(await changed(config), model), code, message);
});

test("is refused with damaged tokens, and without a file", async () => {
  const far = await changed({}, (tensors) => {
    const distances = new BigInt64Array(2048).fill(4090n);
    const d2t = tensors.get("d2t");
    if (d2t) tensors.set("d2t", { ...d2t, bytes: new Uint8Array(distances.buffer) });
  });
  await expectReadMeError(openDraftHead(far, model), "ERR_MODEL_INVALID", "names token 4096");
  const missing = await changed({}, (tensors) => tensors.delete("d2t"));
  await expectReadMeError(openDraftHead(missing, model), "ERR_MODEL_INVALID", "no tensor d2t");
  const nowhere = join(await temporaryFolder(), "none");
  await expectReadMeError(openDraftHead(nowhere, model), "ERR_FILE_NOT_FOUND", nowhere);
});
