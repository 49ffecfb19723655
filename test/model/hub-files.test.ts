import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { downloadModel } from "../../packages/model/src/hub/download-model.ts";
import { body } from "../support/hub-server.ts";
import { filesBelow, INDEX, isolateEnvironment, NAME, setUp, WEIGHTS, llama } from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";

isolateEnvironment();

describe("the files of a model", () => {
  const quantized = { "config.json": "{}", "a.Q4.gguf": "four", "b.Q8.gguf": "eight" };

  test("are one GGUF file when it is named", async () => {
    const { server, commit, folder, options } = await setUp({ ...llama, ...quantized });
    const path = await downloadModel(NAME, { ...options, file: "b.Q8.gguf" });
    expect(path).toBe(join(folder, "snapshots", commit, "b.Q8.gguf"));
    expect(await readFile(path, "utf8")).toBe("eight");
    expect(server.fileRequests).toEqual(["b.Q8.gguf"]);
    expect(await downloadModel(NAME, { ...options, file: "b.Q8.gguf", offline: true })).toBe(path);
    await expectReadMeError(downloadModel(NAME, { ...options, file: "c.gguf" }), "ERR_HUB_NOT_FOUND", '"c.gguf"');
  });

  test("include the only GGUF file without a name, but not one of several", async () => {
    const single = await setUp({ "sub/only.gguf": "one", "config.json": "{}" });
    expect(await downloadModel(NAME, single.options)).toBe(
      join(single.folder, "snapshots", single.commit, "sub/only.gguf"),
    );
    const several = await setUp(quantized);
    const both = ['"a.Q4.gguf"', '"b.Q8.gguf"', "`file`"];
    await expectReadMeError(downloadModel(NAME, several.options), "ERR_MODEL_INVALID", ...both);
  });

  test("are refused in a repository without usable weights", async () => {
    const pickled = await setUp({ "config.json": "{}", "pytorch_model.bin": "x" });
    await expectReadMeError(downloadModel(NAME, pickled.options), "ERR_MODEL_UNSUPPORTED", "PyTorch");
    const empty = await setUp({ "README.md": "x" });
    await expectReadMeError(downloadModel(NAME, empty.options), "ERR_MODEL_INVALID", '"config.json"', WEIGHTS);
    const halfIndexed = await setUp({ "config.json": "{}", [INDEX]: '{"weight_map":{"a":"gone.safetensors"}}' });
    await expectReadMeError(downloadModel(NAME, halfIndexed.options), "ERR_MODEL_INVALID", "gone.safetensors");
    const noIndex = await setUp({ "config.json": "{}", [INDEX]: '{"weight_map":{"a":1}}' });
    await expectReadMeError(downloadModel(NAME, noIndex.options), "ERR_FILE_CORRUPT", "weight_map");
    const readMe = {
      "config.json": '{"readme":{"num_experts":2}}',
      "backbone.safetensors": "",
      "experts/0.safetensors": "",
    };
    const halfReadMe = await setUp(readMe);
    await expectReadMeError(downloadModel(NAME, halfReadMe.options), "ERR_MODEL_INVALID", "experts/1.safetensors");
  });

  test.each([
    "../../evil.safetensors",
    "/evil.safetensors",
    "a\\evil.safetensors",
    "C:evil.safetensors",
    "a//b",
    "a/./b",
  ])("are refused with a shard named %j, before the shard is fetched", async (name) => {
    const index = JSON.stringify({ weight_map: { a: name } });
    const { server, cacheFolder, options } = await setUp({ "config.json": "{}", [INDEX]: index, [name]: "evil" });
    await expectReadMeError(downloadModel(NAME, options), "ERR_FILE_CORRUPT", JSON.stringify(name));
    expect(server.fileRequests).toEqual([INDEX]);
    expect(await filesBelow(dirname(cacheFolder))).toHaveLength(2);
  });

  test("are refused for a commit that is no hash, since it would become a path", async () => {
    const { server, cacheFolder, options } = await setUp();
    server.fail(/revision/, body('{"sha":"../../../evil"}'), 5);
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNREACHABLE", "does not answer like a hub");
    expect(await filesBelow(dirname(cacheFolder))).toEqual([]);
  });

  test("are refused in a listing without hashes", async () => {
    const { server, options } = await setUp();
    server.fail(/tree/, body('[{"type":"file","path":"config.json","size":1,"oid":"../x"}]'), 5);
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNREACHABLE", "hash of each file");
  });
});
