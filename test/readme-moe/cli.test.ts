// The command line as a user calls it: another process, its output, its exit code.

import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { fixture, golden } from "../support/fixtures.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const POCKET = join(ROOT, "models", "pocket");
const MAIN = join(ROOT, "packages", "readme-moe", "src", "main.ts");

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function readmeMoe(...args: readonly string[]): Promise<Outcome> {
  const node = ["--conditions=@readme-moe/source", "--import", "tsx", MAIN, ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, node, { cwd: ROOT, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : error ? -1 : 0, stdout, stderr });
    });
  });
}

describe("generate", () => {
  const { cases } = golden("pocket") as { cases: { text: string; greedy_32: number[] }[] };
  const [first] = cases;

  test("continues a text, with nothing on standard error", async () => {
    const outcome = await readmeMoe("generate", POCKET, "--prompt", first?.text ?? "", "--max-new-tokens", "8");
    expect(outcome).toMatchObject({ code: 0, stderr: "" });
    expect(outcome.stdout.startsWith(first?.text ?? "!")).toBe(true);
  });

  test("gives JSON with text, tokens, why it ended, and usage", async () => {
    const args = ["--prompt", first?.text ?? "", "--max-new-tokens", "32", "--temperature", "0", "--json"];
    const { code, stdout } = await readmeMoe("generate", POCKET, ...args);
    expect(code).toBe(0);
    const { text, ...rest } = JSON.parse(stdout) as { text: string };
    expect(text.length).toBeGreaterThan(30);
    expect(rest).toEqual({
      tokens: first?.greedy_32,
      finish_reason: "length",
      usage: { prompt_tokens: 3, completion_tokens: 32, total_tokens: 35 },
    });
  });
});

describe("inspect", () => {
  test("says what a model is", async () => {
    const { code, stdout } = await readmeMoe("inspect", fixture("official-separate-residual"), "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      kind: "official",
      config: { modelType: "llama", numLayers: 3 },
      experts: { count: 7, expert_size: 56, shared_size: 24 },
      router: { numExperts: 7 },
    });
    expect((await readmeMoe("inspect", POCKET)).stdout).toContain("numLayers: 6");
  });

  test("runs token ids: logits of the last position, router logits and route of every one", async () => {
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

describe("eval", () => {
  test("gives loss and perplexity of every file, and their mean", async () => {
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

  test("takes one expert for all tokens, and other experts give another loss", async () => {
    const folder = await temporaryFolder();
    const model = fixture("official-fused-residual");
    await writeFile(join(folder, "text.txt"), "words ".repeat(30));
    const outcome = await readmeMoe("eval", model, "--data", join(folder, "text.txt"), "--expert", "c5");
    expect(outcome).toMatchObject({ code: 2, stdout: "" });
    expect(outcome.stderr).toMatch(/`expert`.*arxiv, book, c4.*did you mean c4/);
  });

  test("names the line of a data file that is not what it should be", async () => {
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
    [["generate", POCKET], /required option '--prompt/],
    [["generate", POCKET, "--prompt", ""], /at least one token/],
    [["generate", POCKET, "extra", "--prompt", "x"], /too many arguments/],
    [["generate", POCKET, "--prompt", "x", "--max-new-tokens", "-3"], /--max-new-tokens.*integer from 1/],
    [["generate", POCKET, "--prompt", "x", "--precision", "fp31"], /--precision.*fp32/],
    [["inspect", POCKET, "--ids", "1,x"], /--ids.*separated by commas/],
    [["inspect", POCKET, "--ids", "1,4096"], /tokenIds\[1\].*from 0 to 4095/],
    [["eval", POCKET], /required option '--data/],
  ])("%j is refused with exit code 2", async (args, message) => {
    const outcome = await readmeMoe(...args);
    expect(outcome).toMatchObject({ code: 2, stdout: "" });
    expect(outcome.stderr).toMatch(message);
  });

  test("a model that is not there, or is none, is exit code 1", async () => {
    const missing = await readmeMoe("inspect", "no/such/model");
    expect(missing).toMatchObject({ code: 1, stdout: "" });
    expect(missing.stderr).toContain("ERR_FILE_NOT_FOUND");
    const notAModel = await readmeMoe("generate", join(ROOT, "package.json"), "--prompt", "x");
    expect(notAModel).toMatchObject({ code: 1, stdout: "" });
    expect(notAModel.stderr).toMatch(/package\.json.*ERR_FILE_CORRUPT/s);
  });
});
