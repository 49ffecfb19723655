// The models that the adapter loads, the places where it finds them, and the models that it leaves to the host.

import { cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createPipeline, readMeModel, register, type AdapterOptions, type HostLike } from "@readme-moe/adapter";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeFirstLayers } from "../support/first-layers.ts";
import { FP32, HOSTS, findAnywhere, writeTwins, type Generator, type HostName } from "../support/hosts.ts";
import { HubServer } from "../support/hub-server.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { POCKET } from "../support/pocket.ts";
import { sharedModel } from "../support/shared.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const NAME = "some-org/some-model";
const ONE = "The ship was";

let dense: string;
let exported: string;
let both: string; // ONNX files, and safetensors beside them
let readMe: string;
beforeAll(async () => {
  findAnywhere();
  const folder = await persistentFolder();
  await writeFirstLayers(POCKET, join(folder, "first-layers"), 2);
  ({ dense, exported } = await writeTwins(folder, join(folder, "first-layers")));
  both = join(folder, "both");
  await cp(exported, both, { recursive: true });
  await cp(join(dense, "model.safetensors"), join(both, "model.safetensors"));
  readMe = join(folder, "read-me");
  await writeTinyReadMe(readMe, { ...WITH_TOKENIZER });
});

/** Pipelines that stay open to the end, so that the large model's engine, which they share, is opened once. */
const chatting: Generator[] = [];
afterAll(async () => {
  for (const generate of chatting) await generate.dispose();
});

/** The ways to load a model in each host. */
const WAYS = {
  pipeline: (name: HostName, id: string, options: object = {}, adapter: AdapterOptions = {}): Promise<Generator> =>
    createPipeline(HOSTS[name] as unknown as HostLike)("text-generation", id, {
      ...FP32,
      ...options,
      ...adapter,
    }) as unknown as Promise<Generator>,
  register: async (name: HostName, id: string, options: object = {}, adapter: AdapterOptions = {}) => {
    const host = HOSTS[name] as unknown as HostLike;
    const undo = register(host, adapter);
    try {
      return (await host.pipeline(
        "text-generation" as never,
        id as never,
        { ...FP32, ...options } as never,
      )) as Generator;
    } finally {
      undo();
    }
  },
} as const;

const ALL = (["huggingface", "xenova"] as const).flatMap((name) =>
  (["pipeline", "register"] as const).map((way) => [name, way] as const),
);

/** Each host and each way once; the long tests take all pairs. */
const ONE_OF_EACH = ALL.filter(([name, way]) => RUNS_LONG_TESTS || (name === "huggingface") === (way === "pipeline"));

async function isOurs(generate: Generator): Promise<boolean> {
  try {
    const [one] = (await generate(ONE, { max_new_tokens: 3 })) as [{ generated_text: string }];
    expect(one.generated_text.startsWith(ONE)).toBe(true);
    return readMeModel(generate.model) !== undefined;
  } finally {
    await generate.dispose();
  }
}

describe.each(ALL)("%s, by %s", (name, way) => {
  const load = WAYS[way];

  test("folders with safetensors and folders with ONNX files run in the engine", async () => {
    expect(await isOurs(await load(name, dense))).toBe(true);
    expect(await isOurs(await load(name, exported))).toBe(true);
    expect(await isOurs(await load(name, both))).toBe(true);
  });

  test("a Read-ME model runs in the engine, with or without ONNX files, and lists its experts", async () => {
    const generate = await load(name, readMe);
    const route = await readMeModel(generate.model)?.route(ONE);
    expect(route?.experts).toHaveLength(route?.tokenIds.length ?? -1);
    expect(readMeModel(generate.model)?.engine.info.experts).toHaveLength(3);
    await generate.dispose();
    const twin = join(await temporaryFolder(), "twin");
    await cp(readMe, twin, { recursive: true });
    await mkdir(join(twin, "onnx"));
    expect(await isOurs(await load(name, twin))).toBe(true);
  });

  test("a missing model gives the host's own error", async () => {
    const missing = join(await temporaryFolder(), "missing");
    const own = HOSTS[name].pipeline as (...args: unknown[]) => Promise<unknown>;
    const expected = await own("text-generation", missing).catch((error: Error) => error.message);
    await expect(load(name, missing)).rejects.toThrow(String(expected).slice(0, 40));
  });

  test("damaged weights are refused by name", async () => {
    const folder = join(await temporaryFolder(), "damaged");
    await cp(dense, folder, { recursive: true });
    await writeFile(join(folder, "model.safetensors"), "nothing of the kind");
    await expect(load(name, folder)).rejects.toThrow(/model\.safetensors/);
  });
});

describe.each(ONE_OF_EACH)("%s, by %s", (name, way) => {
  const load = WAYS[way];

  test("a model of the hub is downloaded by the host's settings, and works offline later", async () => {
    const { env } = HOSTS[name];
    const before = { ...env };
    const server = await HubServer.start(NAME);
    const files: Record<string, Uint8Array> = {};
    for (const file of await readdir(dense)) files[file] = await readFile(join(dense, file));
    server.commit(files);
    const cacheDir = await temporaryFolder();
    try {
      Object.assign(env, { allowRemoteModels: true, remoteHost: `${server.endpoint}/`, cacheDir });
      const events: { status: string; file?: string; progress?: number }[] = [];
      const progress_callback = (event: (typeof events)[number]): void => void events.push(event);
      expect(await isOurs(await load(name, NAME, { progress_callback }))).toBe(true);
      const weights = events.filter(({ file }) => file === "model.safetensors");
      expect(weights.map(({ status }) => status)).toEqual(
        expect.arrayContaining(["initiate", "download", "progress", "done"]),
      );
      expect(weights.findLast(({ status }) => status === "progress")?.progress).toBe(100);
      const total = events.findLast(({ status }) => status === "progress_total");
      if (name === "huggingface") expect(total?.progress).toBe(100);
      else expect(total).toBeUndefined();
      expect(events.at(-1)).toMatchObject({ status: "ready", task: "text-generation", model: NAME });
      expect(await readdir(cacheDir)).toContain("models--some-org--some-model");
      const numRequests = server.requests.length;
      Object.assign(env, { allowRemoteModels: false });
      expect(await isOurs(await load(name, NAME))).toBe(true);
      expect(server.requests).toHaveLength(numRequests);
      Object.assign(env, { allowRemoteModels: true });
      expect(await isOurs(await load(name, NAME, { local_files_only: true }))).toBe(true);
      expect(server.requests).toHaveLength(numRequests);
    } finally {
      Object.assign(env, before);
    }
  });

  test("a model is found in the host's own cache and folder of models", async () => {
    const { env } = HOSTS[name];
    const before = { ...env };
    const folder = await temporaryFolder();
    await cp(dense, join(folder, NAME), { recursive: true });
    try {
      Object.assign(env, { localModelPath: folder });
      expect(await isOurs(await load(name, NAME))).toBe(true);
      Object.assign(env, before, { localModelPath: await temporaryFolder() });
      expect(await isOurs(await load(name, NAME, { cache_dir: folder }))).toBe(true);
      // Without this package, the host would find tokenizer and config, but no weights.
    } finally {
      Object.assign(env, before);
    }
  });

  test.skipIf(sharedModel("smollm2-135m-instruct") === undefined)(
    "a GGUF file chats (skipped where shared/models is absent)",
    { timeout: 300_000 },
    async () => {
      const path = join(sharedModel("smollm2-135m-instruct") as string, "SmolLM2-135M-Instruct.Q4_1.gguf");
      const generate = await load(name, path, { dtype: "q8", quantized: true });
      const chat = [{ role: "user", content: "What is the capital of Germany?" }];
      const [one] = (await generate(chat, { max_new_tokens: 16 })) as [{ generated_text: object[] }];
      chatting.push(generate);
      expect(one.generated_text.at(-1)).toEqual({ role: "assistant", content: "The capital of Germany is Berlin." });
    },
  );
});

function engineOf(generate: Generator): object | undefined {
  return readMeModel(generate.model)?.engine;
}

describe("engines", () => {
  test("are shared by pipelines with the same model and options, until the last is disposed", async () => {
    const load = (engineOptions: AdapterOptions["engineOptions"] = {}): Promise<Generator> =>
      WAYS.pipeline("huggingface", dense, {}, { engineOptions });
    const [one, two, other] = await Promise.all([load(), load(), load({ maxNumSeqs: 3 })]);
    const older = await WAYS.register("xenova", dense);
    expect(engineOf(two)).toBe(engineOf(one));
    expect(engineOf(older)).toBe(engineOf(one));
    expect(engineOf(other)).not.toBe(engineOf(one));
    await one.dispose();
    await one.dispose();
    expect(await isOurs(two)).toBe(true);
    expect(await older(ONE, { max_new_tokens: 2 })).toHaveLength(1);
    await older.dispose();
    await expect(older(ONE, { max_new_tokens: 2 })).rejects.toThrow(/disposed/);
    await other.dispose();
  });

  test("that failed are not shared with later pipelines", async () => {
    const first = await WAYS.pipeline("huggingface", dense);
    const engine = engineOf(first) as { kill(): void };
    const failed = new Promise((resolve) => readMeModel(first.model)?.events.once("engine:failed", resolve));
    engine.kill();
    await failed;
    const second = await WAYS.pipeline("huggingface", dense);
    expect(engineOf(second)).not.toBe(engine);
    expect(await isOurs(second)).toBe(true);
    await expect(first(ONE)).rejects.toThrow();
    await first.dispose();
  });

  test("use the host's dtype and threads as precision and threads", async () => {
    const precisions: (string | undefined)[] = [];
    for (const options of [{ dtype: "q8" }, { dtype: "q4" }, { dtype: { model: "fp32" } }, { dtype: null }]) {
      const generate = await WAYS.pipeline("huggingface", dense, {
        ...options,
        session_options: { intraOpNumThreads: 1 },
      });
      precisions.push(readMeModel(generate.model)?.engine.info.precision);
      await generate.dispose();
    }
    expect(precisions).toEqual(["int8", "int4", "fp32", "int8"]);
    const older = await WAYS.pipeline("xenova", dense, { quantized: undefined });
    expect(readMeModel(older.model)?.engine.info.precision).toBe("int8");
    await older.dispose();
    await expect(WAYS.pipeline("huggingface", dense, { dtype: "q1" })).rejects.toThrow(/`dtype`/);
  });
});

describe("registering", () => {
  test("twice replaces the options, and undoing restores the host", async () => {
    const host = HOSTS.huggingface as unknown as HostLike;
    const loaders = (): readonly unknown[] =>
      [host.AutoModelForCausalLM, host.AutoTokenizer, host.AutoConfig].map((one) =>
        Reflect.get(one, "from_pretrained"),
      );
    const before = loaders();
    const first = register(host);
    const second = register(host, { engine: "readme-moe" });
    first(); // of no effect: its place was taken
    expect(loaders()[0]).not.toBe(before[0]);
    second();
    expect(loaders()).toEqual(before);
    expect(Object.hasOwn(HOSTS.huggingface.TextGenerationPipeline.prototype, "tokenizer")).toBe(false);
  });

  test("refuses modules other than transformers.js, and unknown options", () => {
    expect(() => register({} as HostLike)).toThrow(/import \* as transformers/);
    expect(() => register(null as unknown as HostLike)).toThrow(TypeError);
    const host = HOSTS.xenova as unknown as HostLike;
    expect(() => register(host, { engine: "other" } as unknown as AdapterOptions)).toThrow(/`engine`/);
    expect(() => register(host, { engin: "readme-moe" } as AdapterOptions)).toThrow(/engin/);
  });

  test("leaves other tasks and models to the host", async () => {
    const pipeline = createPipeline(HOSTS.huggingface as unknown as HostLike);
    await expect(pipeline("no-such-task" as never, dense as never)).rejects.toThrow(/Unsupported pipeline/);
  });
});
