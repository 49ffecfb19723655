// Cut, changed and misleading ONNX files. Each is refused by name, and none makes us allocate the sizes that it claims.

import { copyFile, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel, OnnxTensorStore, type ModelConfig } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { encodeGraph } from "../../packages/refactor/src/graphs/encode.ts";
import type { Constant, Graph, Node, Value } from "../../packages/refactor/src/graphs/graph-builder.ts";
import { checkReading, readAllWith, readDamaged } from "../support/damage.ts";
import { writeOnnxFixtures } from "../support/onnx-fixtures.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

let root: string;
let config: ModelConfig;
beforeAll(async () => {
  root = await persistentFolder();
  await writeOnnxFixtures(root);
  const model = await openModel(join(root, "llama"));
  ({ config } = model);
  await model.close();
});

const value = (name: string): Value => name as Value;

function node(type: string, inputs: readonly string[], output: string): Node {
  return { type, domain: "", inputs: inputs.map(value), outputs: [value(output)], attributes: {} };
}

function constant(name: string, shape: readonly number[], bytes = new Uint8Array(4)): Constant {
  return { name: value(name), type: "float32", shape, byteLength: bytes.byteLength, bytes: () => bytes };
}

async function fileOf(graph: Partial<Graph>): Promise<string> {
  const path = join(await temporaryFolder(), "model.onnx");
  const whole: Graph = { name: "g", nodes: [], inputs: [], outputs: [], constants: [], ...graph };
  await writeFile(path, (await encodeGraph(whole, "model.onnx_data")).model);
  return path;
}

const open = (path: string): Promise<OnnxTensorStore> => OnnxTensorStore.open(path, config);
const readAll = readAllWith(open);

describe("a file", () => {
  test("is read while it is whole, and refused wherever it is cut", async () => {
    const whole = await readFile(join(root, "llama-optimum", "onnx", "model_q4_asymmetric.onnx"));
    const path = join(await temporaryFolder(), "model.onnx");
    expect(await readDamaged(path, whole, readAll)).toEqual([]);
    const step = Math.ceil(whole.byteLength / 60);
    for (let size = 0; size < whole.byteLength; size += step) {
      expect(await readDamaged(path, whole.subarray(0, size), readAll), `${size}`).toHaveLength(1);
    }
  });

  test("with other bytes is read or refused, and never more", async () => {
    const whole = await readFile(join(root, "llama-builder-int4", "onnx", "model.onnx"));
    const folder = await temporaryFolder();
    await copyFile(join(root, "llama-builder-int4", "onnx", "model.onnx.data"), join(folder, "model.onnx.data"));
    const path = join(folder, "model.onnx");
    const random = seededRandom(7);
    const problems: unknown[] = [];
    for (let round = 0; round < 300; round++) {
      const bytes = Uint8Array.from(whole);
      for (let count = 1 + (round % 3); count > 0; count--) {
        bytes[randomInteger(random, bytes.byteLength)] = randomInteger(random, 256);
      }
      await writeFile(path, bytes);
      await checkReading(path, 200_000, readAll).catch((error: unknown) => {
        // Names are changed, too: a message may be about the file beside the graph.
        if (!(error instanceof Error) || !/toContain|to include/.test(error.message)) problems.push(error);
      });
    }
    expect(problems).toEqual([]);
  });

  test("that is another thing is no ONNX model", async () => {
    const path = join(await temporaryFolder(), "model.onnx");
    for (const content of ["", "{}", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"]) {
      await writeFile(path, content);
      await expectReadMeError(open(path), "ERR_FILE_CORRUPT", path, "no ONNX model");
    }
  });
});

describe("a graph is refused", () => {
  test("when a value is computed from itself, made twice, or made by nothing", async () => {
    const cycle = await fileOf({ nodes: [node("Add", ["b", "b"], "a"), node("Add", ["a", "a"], "b")] });
    await expectReadMeError(open(cycle), "ERR_FILE_CORRUPT", "from itself");
    const twice = await fileOf({ nodes: [node("Add", [""], "a"), node("Add", [""], "a")] });
    await expectReadMeError(open(twice), "ERR_FILE_CORRUPT", '"a" twice');
    const missing = await fileOf({ nodes: [node("Add", ["ghost"], "a")] });
    await expectReadMeError(open(missing), "ERR_FILE_CORRUPT", '"ghost"');
  });

  test("when a tensor claims more than the file, or than can be counted", async () => {
    for (const shape of [[2 ** 40, 2 ** 40], [2 ** 31], [2 ** 52, 1], [3]]) {
      const path = await fileOf({ constants: [constant("evil", shape)] });
      await expectReadMeError(open(path), "ERR_FILE_CORRUPT", path, '"evil"');
    }
  });

  test("when it is another kind of model, or has another number of layers", async () => {
    const path = await fileOf({ nodes: [node("Relu", [""], "logits")] });
    await expectReadMeError(open(path), "ERR_FILE_CORRUPT", "of 0 layers", "config.json promises 2");
  });
});

/** Writes a graph whose constant is in `location`. */
async function beside(location: string, bytes?: Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), "model.onnx");
  const large = constant("w", [512], new Uint8Array(2048));
  const whole: Graph = { name: "g", nodes: [], inputs: [], outputs: [], constants: [large] };
  await writeFile(path, (await encodeGraph(whole, location)).model);
  if (bytes) await writeFile(join(path, "..", location), bytes);
  return path;
}

describe("values beside a graph are refused", () => {
  test.each(["../outside", "/etc/passwd", "C:\\secret", "a/../../b", ""])("outside of the folder: %j", async (name) => {
    await expectReadMeError(open(await beside(name)), "ERR_FILE_CORRUPT", "the file name");
  });

  test("through a link that leads out", async () => {
    const outside = join(await temporaryFolder(), "secret");
    await writeFile(outside, new Uint8Array(4096));
    const path = await beside("data");
    await symlink(outside, join(path, "..", "data"));
    await expectReadMeError(open(path), "ERR_FILE_CORRUPT", "leads out of");
  });

  test("when they are missing or too short", async () => {
    await expectReadMeError(open(await beside("data")), "ERR_FILE_NOT_FOUND", '"data"');
    await expectReadMeError(open(await beside("data", new Uint8Array(2047))), "ERR_FILE_CORRUPT", "2047 bytes");
  });
});

const decomposed = (): string => join(root, "llama-optimum", "onnx", "model.onnx");
const built = (): string => join(root, "llama-builder-int4", "onnx", "model.onnx");

describe("a config that the graph contradicts", () => {
  test.each<readonly [string, (own: ModelConfig) => Partial<ModelConfig>, string]>([
    ["layers", () => ({ numLayers: 3 }), "of 2 layers"],
    ["angles", () => ({ ropes: [{ type: "default", theta: 500000 }] }), "other angles"],
    ["the norms' epsilon", () => ({ rmsNormEpsilon: 1e-3 }), "epsilon"],
    [
      "no angles",
      ({ layers }) => ({ layers: layers.map((one) => ({ ...one, angleSet: undefined })) }),
      "rotates the keys",
    ],
  ])("is refused: other %s", async (_what, change, message) => {
    for (const file of [decomposed(), built()]) {
      const error = await OnnxTensorStore.open(file, { ...config, ...change(config) }).catch(
        (reason: unknown) => reason,
      );
      expect((error as Error).message).toContain(message);
    }
  });

  test.each<readonly [string, Partial<ModelConfig>, string]>([
    ["heads", { numHeads: 4, headSize: 8 }, "2 heads, not 4"],
    ["factor of scores", { attentionScale: 1 }, "the factor"],
  ])("is refused: other %s of an attention node", async (_what, change, message) => {
    await expectReadMeError(OnnxTensorStore.open(built(), { ...config, ...change }), "ERR_MODEL_UNSUPPORTED", message);
  });

  test("is refused: other sizes", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "onnx"));
    await copyFile(decomposed(), join(folder, "onnx", "model.onnx"));
    const json = JSON.parse(await readFile(join(root, "llama", "config.json"), "utf8")) as object;
    await writeFile(join(folder, "config.json"), JSON.stringify({ ...json, intermediate_size: 65 }));
    await expectReadMeError(openModel(folder), "ERR_MODEL_INVALID", "mlp.gate_proj.weight", "[64, 32]", "[65, 32]");
  });
});
