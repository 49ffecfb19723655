// Folders and repositories with ONNX files alone, as users of transformers.js have them: which file runs, where, and what
// happens to files that the engine cannot read.

import { copyFile, cp, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as huggingface from "@huggingface/transformers";
import { createAutoClasses, createPipeline, readMeModel, register, type HostLike } from "@readme-moe/adapter";
import { openModel } from "@readme-moe/model";
import { exportTransformersJs } from "@readme-moe/refactor";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { findAnywhere, HOSTS, writeTwins, type Generator, type HostName } from "../support/hosts.ts";
import { HubServer } from "../support/hub-server.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

const NAME = "some-org/some-onnx";
const ONE = "The ship was";

let exported: string;
beforeAll(async () => {
  findAnywhere();
  const folder = await persistentFolder();
  const { dense } = await writeTwins(folder);
  exported = join(folder, "all");
  const model = await openModel(dense);
  await exportTransformersJs(model, exported);
  await model.close();
});

async function load(path: string, options: object = {}, name: HostName = "huggingface"): Promise<Generator> {
  const pipeline = createPipeline(HOSTS[name] as unknown as HostLike) as unknown as (
    ...args: unknown[]
  ) => Promise<unknown>;
  const generate = (await pipeline("text-generation", path, options)) as Generator;
  onTestFinished(async () => void (await generate.dispose()));
  return generate;
}

/** Collects warnings of the running test. */
function warnings(): readonly string[] {
  const texts: string[] = [];
  const note = (warning: Error): void => {
    if (warning.name === "ReadMeWarning") texts.push(warning.message);
  };
  process.on("warning", note);
  onTestFinished(() => void process.off("warning", note));
  return texts;
}

/** A copy of the export with some files of its folder `onnx` under the names of others. */
async function withFiles(names: Readonly<Record<string, string>>): Promise<string> {
  const folder = join(await temporaryFolder(), "model");
  await cp(exported, folder, { recursive: true });
  await rename(join(folder, "onnx"), join(folder, "source"));
  await mkdir(join(folder, "onnx"));
  for (const [to, from] of Object.entries(names)) {
    await copyFile(join(folder, "source", from), join(folder, "onnx", to));
  }
  await rm(join(folder, "source"), { recursive: true });
  return folder;
}

describe("the file", () => {
  test.each([
    [{ dtype: "fp32" }, "model.onnx", "fp32"],
    [{ dtype: "q8" }, "model_quantized.onnx", "int8"],
    [{ dtype: "q4" }, "model_q4.onnx", "int4"],
    [{ dtype: { model: "q4" } }, "model_q4.onnx", "int4"],
    [{ dtype: "auto" }, "model.onnx", "int8"],
    [{ dtype: "q8", model_file_name: "decoder_model_merged" }, "decoder_model_merged_quantized.onnx", "int8"],
  ])("for %j is %s", async (options, file, precision) => {
    // Only this file is there, so that no other can be taken.
    const folder = await withFiles({ [file]: file });
    const generate = await load(folder, options);
    expect(readMeModel(generate.model)?.engine.info.precision).toBe(precision);
    expect(await generate(ONE, { max_new_tokens: 3 })).toHaveLength(1);
  });

  test("for no dtype is the one that config.json names", async () => {
    const folder = await withFiles({ "model_q4.onnx": "model_q4.onnx", "model.onnx": "model.onnx" });
    const path = join(folder, "config.json");
    const config = JSON.parse(await readFile(path, "utf8")) as object;
    await writeFile(path, JSON.stringify({ ...config, "transformers.js_config": { dtype: "q4" } }));
    expect(readMeModel((await load(folder)).model)?.engine.info.precision).toBe("int4");
    expect(readMeModel((await load(folder, { dtype: "fp32" })).model)?.engine.info.precision).toBe("fp32");
  });

  test("of the older host is the quantised one unless told otherwise", async () => {
    const folder = await withFiles({ "decoder_model_merged_quantized.onnx": "model_quantized.onnx" });
    expect(readMeModel((await load(folder, {}, "xenova")).model)?.engine.info.precision).toBe("int8");
  });

  test("gives the host's texts", async () => {
    const own = (await huggingface.pipeline("text-generation", exported, { dtype: "fp32" })) as unknown as Generator;
    onTestFinished(async () => void (await own.dispose()));
    const ours = await load(exported, { dtype: "fp32" });
    const options = { max_new_tokens: 24, do_sample: false };
    expect(await ours([ONE, "import os"], options)).toEqual(await own([ONE, "import os"], options));
  });
});

/** A folder whose config contradicts its graph, which the host does not notice. */
async function unreadable(): Promise<string> {
  const folder = await withFiles({ "model.onnx": "model.onnx" });
  const path = join(folder, "config.json");
  const config = JSON.parse(await readFile(path, "utf8")) as object;
  await writeFile(path, JSON.stringify({ ...config, rms_norm_eps: 0.5 }));
  return folder;
}

describe("a file that the engine cannot read", () => {
  test("is run by the host, with one warning that says why", async () => {
    const texts = warnings();
    const folder = await unreadable();
    for (let count = 0; count < 2; count++) {
      const generate = await load(folder, { dtype: "fp32" });
      expect(readMeModel(generate.model)).toBeUndefined();
      expect(await generate(ONE, { max_new_tokens: 2 })).toHaveLength(1);
    }
    expect(texts).toHaveLength(1);
    expect(texts[0]).toContain(folder);
    expect(texts[0]).toContain("epsilon");
  });

  test("is an error where the engine is asked for", async () => {
    const texts = warnings();
    const folder = await unreadable();
    const asked = { dtype: "fp32", engine: "readme-moe" };
    await expectReadMeError(load(folder, asked), "ERR_MODEL_UNSUPPORTED", "epsilon");
    await expectReadMeError(load(join(folder, "missing"), asked), "ERR_FILE_NOT_FOUND", '"readme-moe"');
    await expectReadMeError(load(folder, { ...asked, dtype: "q4" }), "ERR_FILE_NOT_FOUND", '"readme-moe"');
    expect(texts).toEqual([]);
    const pipeline = createPipeline(huggingface) as unknown as (...args: unknown[]) => Promise<unknown>;
    await expect(pipeline("summarization", folder, asked)).rejects.toThrow(/`task`/);
  });

  test("is run by the host that registers, too", async () => {
    const texts = warnings();
    const folder = await unreadable();
    const undo = register(huggingface);
    onTestFinished(undo);
    const generate = (await huggingface.pipeline("text-generation", folder, { dtype: "fp32" })) as unknown as Generator;
    onTestFinished(async () => void (await generate.dispose()));
    expect(readMeModel(generate.model)).toBeUndefined();
    expect(texts).toHaveLength(1);
  });
});

test("another device than the CPU has no effect, and one warning says so", async () => {
  const texts = warnings();
  for (const device of ["cpu", "webgpu", "webgpu"]) await load(exported, { dtype: "fp32", device });
  expect(texts).toEqual([expect.stringContaining('"webgpu"')]);
});

function ids(output: unknown): unknown {
  return (output as { tolist(): unknown }).tolist();
}

describe("models by their classes", () => {
  const { AutoModelForCausalLM, AutoTokenizer } = createAutoClasses(huggingface);
  type Model = { generate(options: object): Promise<unknown>; dispose(): Promise<unknown> };

  async function opened(): Promise<{ model: Model; inputs: object }> {
    const tokenizer = await AutoTokenizer.from_pretrained(exported);
    const model = (await AutoModelForCausalLM.from_pretrained(exported, { dtype: "fp32" })) as unknown as Model;
    onTestFinished(async () => void (await model.dispose()));
    return { model, inputs: tokenizer(ONE) as object };
  }

  test("generate what the host's do, and the host is not changed", async () => {
    const { model, inputs } = await opened();
    expect(readMeModel(model)).toBeDefined();
    const own = (await huggingface.AutoModelForCausalLM.from_pretrained(exported, {
      dtype: "fp32",
    })) as unknown as Model;
    onTestFinished(async () => void (await own.dispose()));
    expect(readMeModel(own)).toBeUndefined();
    const options = { ...inputs, max_new_tokens: 8, do_sample: false };
    expect(ids(await model.generate(options))).toEqual(ids(await own.generate(options)));
    const [ours, theirs] = [model, own].map((one) => one.generate({ ...options, return_dict_in_generate: true }));
    expect(ids(((await ours) as { sequences: unknown }).sequences)).toEqual(
      ids(((await theirs) as { sequences: unknown }).sequences),
    );
  });

  test.each(["past_key_values", "inputs_embeds", "position_ids", "output_attentions"])(
    "refuse %s by name",
    async (name) => {
      const { model, inputs } = await opened();
      await expect(model.generate({ ...inputs, max_new_tokens: 2, [name]: true })).rejects.toThrow(`\`${name}\``);
    },
  );

  test("refuse both names of the prompt", async () => {
    const { model, inputs } = await opened();
    const { input_ids: prompt } = inputs as { input_ids: object };
    await expect(model.generate({ ...inputs, inputs: prompt })).rejects.toThrow(TypeError);
  });
});

test("a repository with ONNX files alone is downloaded for one data type, and works offline later", async () => {
  const { env } = huggingface;
  const before = { ...env };
  onTestFinished(() => void Object.assign(env, before));
  const server = await HubServer.start(NAME);
  const files: Record<string, Uint8Array> = {};
  for (const file of await readdir(exported, { recursive: true, withFileTypes: true })) {
    if (!file.isFile()) continue;
    const path = join(file.parentPath, file.name);
    files[path.slice(exported.length + 1).replaceAll("\\", "/")] = await readFile(path);
  }
  server.commit(files);
  Object.assign(env, { allowRemoteModels: true, remoteHost: `${server.endpoint}/`, cacheDir: await temporaryFolder() });
  const first = await load(NAME, { dtype: "q4" });
  expect(readMeModel(first.model)?.engine.info.precision).toBe("int4");
  expect(server.requests.map(({ path }) => path).join()).not.toContain("model.onnx");
  Object.assign(env, { allowRemoteModels: false });
  const numRequests = server.requests.length;
  const again = await load(NAME, { dtype: "q4" });
  expect(readMeModel(again.model)?.engine.info.precision).toBe("int4");
  expect(server.requests).toHaveLength(numRequests);
});
