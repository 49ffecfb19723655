// Adapters and expert sets of the hub.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openLora, openModel } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { downloadAdapter, downloadModel } from "../../packages/model/src/hub/download-model.ts";
import { fixture } from "../support/fixtures.ts";
import { filesBelow, isolateEnvironment, llama, NAME, setUp, WEIGHTS } from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";

isolateEnvironment();

const CONFIG = "adapter_config.json";
const TENSORS = "adapter_model.safetensors";
const ADAPTER = fixture("lora/llama-tied/attention-r4");

function set(folder: string, router?: object): string {
  return JSON.stringify({ version: 1, experts: [{ name: "legal", folder }], router });
}

/** The files of an adapter, under a folder of the repository. */
async function adapterFiles(folder = ""): Promise<Record<string, Uint8Array>> {
  return {
    [`${folder}${CONFIG}`]: await readFile(join(ADAPTER, CONFIG)),
    [`${folder}${TENSORS}`]: await readFile(join(ADAPTER, TENSORS)),
  };
}

describe("an adapter", () => {
  test("is its two files, whatever else is in the repository", async () => {
    const others = { "README.md": "# legal", "tokenizer.json": "{}", "checkpoint-5/adapter_config.json": "{}" };
    const { server, commit, folder, options } = await setUp({ ...others, ...(await adapterFiles()) });
    const path = await downloadAdapter(NAME, options);
    expect(path).toBe(join(folder, "snapshots", commit));
    expect((await filesBelow(path)).toSorted()).toEqual([CONFIG, TENSORS]);
    const model = await openModel(fixture("families/llama-tied"));
    const expert = await openLora(path, "legal", model);
    expect(expert.maxRank).toBe(4);
    await Promise.all([expert.close(), model.close()]);
    const before = server.requests.length;
    expect(await downloadAdapter(NAME, { ...options, offline: true })).toBe(path);
    expect(server.requests.length).toBe(before);
  });

  test("is refused when it is pickled, not there, or a whole model", async () => {
    const { [CONFIG]: config = "", ...rest } = await adapterFiles();
    const pickled = await setUp({ [CONFIG]: config, "adapter_model.bin": "x" });
    await expectReadMeError(downloadAdapter(NAME, pickled.options), "ERR_MODEL_UNSUPPORTED", "pickled");
    const half = await setUp(rest);
    await expectReadMeError(downloadAdapter(NAME, half.options), "ERR_MODEL_INVALID", CONFIG);
    const model = await setUp();
    await expectReadMeError(downloadAdapter(NAME, model.options), "ERR_MODEL_INVALID", CONFIG, TENSORS);
    expect(model.server.fileRequests).toEqual([]);
  });
});

describe("a model with experts", () => {
  test("comes with them", async () => {
    const files = { ...llama, ...(await adapterFiles("experts/legal/")), "read-me-experts.json": set("experts/legal") };
    const { options } = await setUp({ ...files, "experts/other.safetensors": "unused" });
    const path = await downloadModel(NAME, options);
    expect(await downloadModel(NAME, { ...options, offline: true })).toBe(path);
    const model = await openModel(path);
    expect(model.loraSet?.experts.map(({ name }) => name)).toEqual(["legal"]);
    await (await openLora(model.loraSet?.experts[0]?.path ?? "", "legal", model)).close();
    await model.close();
    expect(await filesBelow(path)).not.toContain("experts/other.safetensors");
  });

  test("is refused when one of their files is missing or outside, before weights are fetched", async () => {
    const halfSet = await setUp({ ...llama, "read-me-experts.json": set("experts/legal") });
    await expectReadMeError(downloadModel(NAME, halfSet.options), "ERR_MODEL_INVALID", "experts/legal");
    const noRouter = { ...llama, ...(await adapterFiles("a/")), "read-me-experts.json": set("a", {}) };
    const { options } = await setUp(noRouter);
    await expectReadMeError(downloadModel(NAME, options), "ERR_MODEL_INVALID", "router.safetensors");
    const outside = await setUp({ ...llama, "read-me-experts.json": set("../../x") });
    await expectReadMeError(downloadModel(NAME, outside.options), "ERR_FILE_CORRUPT", "`..` part");
    for (const { server } of [halfSet, outside]) expect(server.fileRequests).not.toContain(WEIGHTS);
  });
});
