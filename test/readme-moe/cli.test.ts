// The command line as a user calls it: another process, its output, its exit code.

import { spawn } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { CHAT_TEMPLATE, writeChattingPocket } from "../support/chatting-pocket.ts";
import { QWEN_MARKS, withFillInMarks } from "../support/fill-in-model.ts";
import { fixture, golden } from "../support/fixtures.ts";
import { NAME, setUp } from "../support/hub-setup.ts";
import { outcomeOf } from "../support/node-process.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { COMMAND_LINE, runCli, type Outcome } from "../support/run-cli.ts";
import { sharedModel } from "../support/shared.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const POCKET = join(ROOT, "models", "pocket");

function readmeMoe(...args: readonly string[]): Promise<Outcome> {
  return runCli(args);
}

/** With lines on standard input. */
function readmeMoeWith(input: string, ...args: readonly string[]): Promise<Outcome> {
  return runCli(args, input);
}

test.each([
  [["--expert-cache", "much"], /Expected a size, such as 150MB/],
  [["--expert-cache", "4MB", "--expert-cache-policy", "clock"], /Allowed choices are belady, lru, lfu, random/],
  [["--expert-cache-policy", "lru"], /--expert-cache-policy with --expert-cache only/],
  [["--speculation", "sometimes"], /Allowed choices are on, off/],
  [["--draft-head", "small", "--speculation", "off"], /Expected --draft-head without --speculation off/],
])("generate refuses %j for a dense model", async (args, message) => {
  const outcome = await readmeMoe("generate", POCKET, "--prompt", "x", ...args);
  expect(outcome.code).toBe(2);
  expect(outcome.stderr).toMatch(message);
});

test.each(["--version", "-v"])("%s prints the version", async (flag) => {
  const outcome = await readmeMoe(flag);
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
  expect(outcome.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});

test.each(["16.20.2", "18.20.8", "20.18.3"])(
  "Node %s is told which one is needed, before another module is loaded",
  async (node) => {
    const main = COMMAND_LINE.at(-1) ?? "";
    const pretend = `Object.defineProperty(process, "versions", { value: { ...process.versions, node: "${node}" } });`;
    const args = [
      ...COMMAND_LINE.slice(0, -1),
      "--import",
      `data:text/javascript,${encodeURIComponent(pretend)}`,
      main,
    ];
    const outcome = await outcomeOf(spawn(process.execPath, [...args, "--version"]));
    const message = `error: this is Node ${node}, and Node 20.19 or newer is needed: https://nodejs.org has it\n`;
    expect(outcome).toMatchObject({ code: 1, stdout: "", stderr: message });
    const imported = Array.from(
      (await readFile(main, "utf8")).matchAll(/^import .* from "(.*)"/gm),
      ([, name]) => name,
    );
    expect(imported).toEqual(["node:fs"]);
  },
);

describe("generate", () => {
  const { cases } = golden("pocket") as { cases: { text: string; greedy_32: number[] }[] };
  const [first] = cases;

  test("continues a text, with nothing on standard error", async () => {
    const outcome = await readmeMoe("generate", POCKET, "--prompt", first?.text ?? "", "--max-new-tokens", "8");
    expect(outcome).toMatchObject({ code: 0, stderr: "" });
    expect(outcome.stdout.startsWith(first?.text ?? "!")).toBe(true);
  });

  test("prints JSON with text, tokens, finish reason and usage", async () => {
    const args = [
      "--prompt",
      first?.text ?? "",
      "--max-new-tokens",
      "32",
      "--temperature",
      "0",
      "--json",
      "--precision",
      "fp32",
    ];
    const { code, stdout } = await readmeMoe("generate", POCKET, ...args);
    expect(code).toBe(0);
    const { text, ...rest } = JSON.parse(stdout) as { text: string };
    expect(text.length).toBeGreaterThan(30);
    // Without counts of drafts, which depend on the machine's speed: equal calls print equal JSON.
    expect(rest).toEqual({
      tokens: first?.greedy_32,
      finish_reason: "length",
      usage: { prompt_tokens: 3, completion_tokens: 32, total_tokens: 35 },
    });
  });
});

describe("generate with more options", () => {
  test("prints the same JSON with --speculation on and off", async () => {
    const { cases } = golden("pocket") as { cases: { text: string; greedy_32: number[] }[] };
    const args = [
      "--prompt",
      cases[0]?.text ?? "",
      "--max-new-tokens",
      "32",
      "--json",
      "--precision",
      "fp32",
      "--speculation",
    ];
    const outcomes = await Promise.all(["on", "off"].map((way) => readmeMoe("generate", POCKET, ...args, way)));
    for (const outcome of outcomes) expect(outcome).toEqual({ ...outcomes[0], code: 0, stderr: "" });
    expect(JSON.parse(outcomes[0]?.stdout ?? "")).toMatchObject({ tokens: cases[0]?.greedy_32 });
  });

  test.each(["chat", "serve"])("%s knows --speculation and --draft-head", async (command) => {
    expect(await readmeMoe(command, POCKET, "--speculation", "no")).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/--speculation .*Allowed choices are on, off/) as unknown,
    });
    expect(await readmeMoe(command, POCKET, "--speculation", "off", "--draft-head", "x")).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("Expected --draft-head without --speculation off") as unknown,
    });
  });

  test("runs several prompts at once, and prints them in their order", async () => {
    const args = ["generate", POCKET, "--prompt", "The ship was", "In the", "--max-new-tokens", "6"];
    const json = await readmeMoe(...args, "--json");
    const completions = JSON.parse(json.stdout) as { tokens: number[]; text: string }[];
    expect(completions.map(({ tokens }) => tokens.length)).toEqual([6, 6]);
    const plain = await readmeMoe(...args);
    expect(plain.stdout).toBe(`The ship was${completions[0]?.text}\n\nIn the${completions[1]?.text}\n`);
  });

  test("samples by the options, equally with the same seed", async () => {
    const sampling = ["--temperature", "0.9", "--top-p", "0.9", "--top-k", "50", "--repetition-penalty", "1.1"];
    const args = ["generate", POCKET, "--prompt", "Once", "--max-new-tokens", "12", "--json", ...sampling];
    const [a, b, c] = await Promise.all([
      readmeMoe(...args, "--seed", "3"),
      readmeMoe(...args, "--seed", "3", "--isolation", "thread"),
      readmeMoe(...args, "--seed", "4"),
    ]);
    expect(a.code).toBe(0);
    expect(b?.stdout).toBe(a.stdout);
    expect(c?.stdout).not.toBe(a.stdout);
  });

  test("ends before a stop text, with the finish reason", async () => {
    const args = ["generate", POCKET, "--prompt", "The ship was", "--json"];
    const { text } = JSON.parse((await readmeMoe(...args, "--max-new-tokens", "12")).stdout) as { text: string };
    const stop = text.slice(6, 9);
    const outcome = JSON.parse((await readmeMoe(...args, "--stop", stop)).stdout) as { text: string };
    expect(outcome).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: "stop" });
  });
});

const smollm2 = sharedModel("smollm2-135m-instruct");

describe("chat", () => {
  test("needs a model with a chat template", async () => {
    const outcome = await readmeMoeWith("Hi\n", "chat", POCKET);
    expect(outcome).toMatchObject({ code: 1 });
    expect(outcome.stderr).toMatch(/no chat template.*ERR_CHAT_TEMPLATE/);
  });

  test.skipIf(smollm2 === undefined)(
    "answers, remembers, and forgets (skipped where shared/models is absent)",
    async () => {
      const question = "What is the capital of France?";
      const lines = [question, "And of Italy?", "/clear", "", question, "/exit", "never read"];
      const args = [
        "chat",
        smollm2 as string,
        "--lines",
        "--precision",
        "fp32",
        "--temperature",
        "0",
        "--max-new-tokens",
        "30",
      ];
      const outcome = await readmeMoeWith(`${lines.join("\n")}\n`, ...args);
      const answer = "The capital of France is Paris.";
      expect(outcome.code).toBe(0);
      // The first run packs the model.
      expect(outcome.stderr).toMatch(/^(?:\S+: (?:packing|loading) weights.*\n)*$/);
      expect(outcome.stdout).toBe(`${answer}\nThe capital of Italy is Rome.\n${answer}\n`);
    },
  );
});

describe("inspect", () => {
  test("prints a model's config, sizes and experts", async () => {
    const { code, stdout } = await readmeMoe("inspect", fixture("official-separate-residual"), "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      kind: "official",
      config: { modelType: "llama", numLayers: 3 },
      experts: { count: 7, expert_size: 56, shared_size: 24 },
      router: { numExperts: 7 },
    });
    expect((await readmeMoe("inspect", POCKET)).stdout).toContain("numLayers: 6");
    const kernel = await readmeMoe("inspect", POCKET, "--json", "--precision", "int8", "--threads", "3");
    expect(JSON.parse(kernel.stdout)).toMatchObject({
      kernel: { kind: expect.stringMatching(/^(native|wasm)$/), instructions: expect.any(String), threads: 3 },
    });
  });

  test("prints the model's name and what its chat template is, and with --template the whole of it", async () => {
    const folder = join(await temporaryFolder(), "chatting");
    await writeChattingPocket(folder);
    const [first_line] = CHAT_TEMPLATE.split("\n");
    const chat_template = { characters: CHAT_TEMPLATE.length, first_line, takes_tools: false, tool_calls: null };
    const described = await readmeMoe("inspect", folder, "--json");
    expect(JSON.parse(described.stdout)).toMatchObject({ name: "chatting", chat_template, fill_in_middle: null });
    expect((await readmeMoe("inspect", folder)).stdout).toContain(
      `chat_template:\n  characters: ${CHAT_TEMPLATE.length}\n`,
    );
    expect(await readmeMoe("inspect", folder, "--template")).toMatchObject({ code: 0, stdout: `${CHAT_TEMPLATE}\n` });
    const whole = await readmeMoe("inspect", folder, "--template", "--json");
    expect(JSON.parse(whole.stdout)).toMatchObject({ chat_template: { ...chat_template, source: CHAT_TEMPLATE } });
    const plain = await readmeMoe("inspect", fixture("official-separate-residual"), "--json");
    expect(JSON.parse(plain.stdout)).toMatchObject({ name: "official-separate-residual", chat_template: null });
    const none = await readmeMoe("inspect", POCKET, "--template");
    expect(none).toMatchObject({ code: 1, stdout: "", stderr: expect.stringContaining("has no chat template") });
  });

  test("prints the marks that a model fills gaps with", async () => {
    const folder = join(await temporaryFolder(), "marked");
    await writeReadingModel(folder, await withFillInMarks());
    const { stdout } = await readmeMoe("inspect", folder, "--json");
    const { prefix, suffix, middle } = QWEN_MARKS;
    const fill_in_middle = { family: "qwen2.5-coder", marks: [prefix, suffix, middle] };
    expect(JSON.parse(stdout)).toMatchObject({ fill_in_middle });
  });

  test("prints the last position's logits, and each position's router logits and route", async () => {
    interface Case {
      readonly input_ids: readonly number[];
      readonly router_logits: readonly (readonly number[])[];
      readonly route: readonly number[];
      readonly last_logits: readonly number[];
    }
    const one = (golden("official-fused-residual") as { cases: readonly Case[] }).cases[1] as Case;
    const { stdout } = await readmeMoe(
      "inspect",
      fixture("official-fused-residual"),
      "--precision",
      "fp32",
      "--ids",
      one.input_ids.join(),
      "--json",
    );
    const result = JSON.parse(stdout) as { logits: number[]; router_logits: number[][]; route: number[] };
    expect(result.route).toEqual(one.route);
    expect(largestDifference(result.logits, one.last_logits)).toBeLessThan(1e-3);
    expect(largestDifference(result.router_logits.flat(), one.router_logits.flat())).toBeLessThan(1e-3);
  });
});

async function withHub(endpoint: string, ...args: readonly string[]): Promise<Outcome> {
  vi.stubEnv("HF_ENDPOINT", endpoint);
  vi.stubEnv("HF_HOME", await temporaryFolder());
  try {
    return await readmeMoe(...args);
  } finally {
    vi.unstubAllEnvs();
  }
}

describe("a model of the hub", () => {
  test("is downloaded once, and opened", async () => {
    const { server } = await setUp();
    const outcome = await withHub(server.endpoint, "inspect", NAME, "--ids", "5,6,7", "--json");
    expect(outcome).toMatchObject({ code: 0, stderr: "" });
    expect((JSON.parse(outcome.stdout) as { logits: number[] }).logits).toHaveLength(128);
  });

  test("that does not exist is reported as a missing file and as a missing model", async () => {
    const { server } = await setUp();
    const outcome = await withHub(server.endpoint, "inspect", "tiny-org/other");
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(outcome.stderr).toMatch(/tiny-org\/other: no such file or folder; as a model of the hub: .*ERR_HUB_/s);
  });
});

describe("eval", () => {
  test("prints loss and perplexity of every file, and the mean", async () => {
    const folder = await temporaryFolder();
    const lines = ["The ship was lost at sea.", "The captain said nothing."].map((text) => JSON.stringify({ text }));
    await writeFile(join(folder, "sea.jsonl"), `${lines.join("\n")}\n`);
    await writeFile(join(folder, "plain.txt"), "A text that is one document. ".repeat(20));
    const files = [join(folder, "sea.jsonl"), join(folder, "plain.txt")];
    const args = ["--data", ...files, "--sequence-length", "32", "--max-sequences", "2", "--json"];
    const { code, stdout } = await readmeMoe("eval", POCKET, ...args);
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as {
      files: Record<string, { loss: number; perplexity: number; tokens: number }>;
      mean_loss: number;
    };
    expect(Object.keys(result.files)).toEqual(["sea", "plain"]);
    expect(result.files["plain"]?.tokens).toBe(62);
    expect(result.files["sea"]?.perplexity).toBeCloseTo(Math.exp(result.files["sea"]?.loss ?? 0), 6);
    expect(result.mean_loss).toBeCloseTo(
      ((result.files["sea"]?.loss ?? 0) + (result.files["plain"]?.loss ?? 0)) / 2,
      9,
    );
  });

  test("uses one expert for all tokens, and another expert gives another loss", async () => {
    const folder = await temporaryFolder();
    const model = fixture("official-fused-residual");
    await writeFile(join(folder, "text.txt"), "words ".repeat(30));
    const outcome = await readmeMoe("eval", model, "--data", join(folder, "text.txt"), "--expert", "c5");
    expect(outcome).toMatchObject({ code: 2, stdout: "" });
    expect(outcome.stderr).toMatch(/`expert`.*arxiv, book, c4.*did you mean c4/);
  });

  test("names a wrong line of a data file", async () => {
    const path = join(await temporaryFolder(), "bad.jsonl");
    await writeFile(path, '{"text":"fine"}\n{"txet":"not"}\n');
    const outcome = await readmeMoe("eval", POCKET, "--data", path);
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(outcome.stderr).toContain("bad.jsonl:2: expected an object with a string `text`");
  });
});

describe("wrong calls", () => {
  test.each([
    [["--help"], 0, /Commands:/],
    [["eval", "--help"], 0, /--sequence-length <tokens>/],
    [["inspect", "--help"], 0, /--ids <ids>/],
    [["generate", "--help"], 0, /--max-new-tokens <n>/],
  ])("%j shows help", async (args, code, output) => {
    const outcome = await readmeMoe(...args);
    expect(outcome).toMatchObject({ code, stderr: "" });
    expect(outcome.stdout).toMatch(output);
  });

  test.each([
    [[], /Usage: readme-moe/],
    [["genrate"], /Did you mean generate/],
    [["generate", POCKET, "--promt", "x"], /--promt.*\n?.*Did you mean --prompt/],
    [["generate", POCKET], /required option '--prompt <text...>', or a text on standard input/],
    [
      ["serve", POCKET, "--port", "65536"],
      /--port.*Expected a port from 0 to 65535\.\n`readme-moe serve --help` shows how to call it\n$/,
    ],
    [
      ["serve", POCKET, "--port", "http"],
      /--port.*Expected a port from 0 to 65535\.\n`readme-moe serve --help` shows how to call it\n$/,
    ],
    [["generate", POCKET, "--prompt", ""], /at least one token/],
    [["generate", POCKET, "extra", "--prompt", "x"], /too many arguments/],
    [["generate", POCKET, "--prompt", "x", "--temperature", "warm"], /--temperature.*number/],
    [["generate", POCKET, "--prompt", "x", "--top-p", "2"], /`topP`/],
    [["generate", POCKET, "--prompt", "x", "--logit-bias", "x=1"], /--logit-bias.*id=bias/],
    [["generate", POCKET, "--prompt", "x", "--expert", "github"], /`expert`.*none/],
    [["generate", POCKET, "--prompt", "x", "--max-new-tokens", "-3"], /--max-new-tokens.*integer from 1/],
    [["generate", POCKET, "--prompt", "x", "--precision", "fp31"], /--precision.*fp32, int8/],
    [["inspect", POCKET, "--ids", "1,x"], /--ids.*separated by commas/],
    [["inspect", POCKET, "--ids", "1,4096"], /--ids.*from 0 to 4095/],
    [["eval", POCKET], /required option '--data/],
  ])("%j is refused with exit code 2", async (args, message) => {
    const outcome = await readmeMoe(...args);
    expect(outcome).toMatchObject({ code: 2, stdout: "" });
    expect(outcome.stderr).toMatch(message);
  });

  test("a missing model, and a file that is no model, end with exit code 1", async () => {
    const missing = await readmeMoe("inspect", "no/such/model");
    expect(missing).toMatchObject({ code: 1, stdout: "" });
    expect(missing.stderr).toContain("ERR_FILE_NOT_FOUND");
    const notAModel = await readmeMoe("generate", join(ROOT, "package.json"), "--prompt", "x");
    expect(notAModel).toMatchObject({ code: 1, stdout: "" });
    expect(notAModel.stderr).toMatch(/package\.json.*ERR_FILE_CORRUPT/s);
  });
});
