// `--lora` of the commands that run a model, over tiny models, against plain merged weights.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openLora, openModel, writeExpertSet } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { mergedModel } from "../oracles/merged-model.ts";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { plainLogProbs } from "../oracles/plain-log-probs.ts";
import { fixture, golden } from "../support/fixtures.ts";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { largestDifference } from "../support/running-model.ts";
import { startReady } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";
import { tinySet } from "../support/tiny-set.ts";

const TEXT = "The ship was lost at sea. ".repeat(30);

let folder: string;
const at = (name: string): string => join(folder, name);

beforeAll(async () => {
  folder = await persistentFolder();
  await writeTinyDense(at("dense"), 5);
  const model = await openModel(at("dense"));
  const { config } = model;
  await model.close();
  const [legal, support] = [
    { seed: 2, size: 0.3 },
    { seed: 3, size: 0.3, modules: ["mlp.down_proj", "lm_head"] },
  ];
  await writeTinyAdapter(at("legal"), config, legal);
  await writeTinyAdapter(at("support"), config, support);
  await writeExpertSet(at("set"), await tinySet(config, { legal, support }, 7));
  await writeFile(at("sea.txt"), TEXT);
});

/** Mean loss of the text's first two sequences of 32 tokens, by the plain decoder. */
async function plainLoss(adapter?: string): Promise<number> {
  const model = await openModel(at("dense"));
  const expert = adapter === undefined ? undefined : await openLora(at(adapter), adapter, model);
  const merged = expert ? await mergedModel(model, expert) : model;
  const { tokenizer } = await model.loadText();
  const ids = Array.from(tokenizer.encode(TEXT, { addSpecialTokens: false }));
  const losses: number[] = [];
  for (const from of [0, 32]) {
    const tokens = ids.slice(from, from + 32);
    const logProbs = await plainLogProbs(merged, tokens, new Uint16Array(tokens.length), 1);
    losses.push(...logProbs.map((logProb) => -logProb));
  }
  await Promise.all([expert?.close(), model.close()]);
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

describe("eval", () => {
  const SIZES = ["--sequence-length", "32", "--max-sequences", "2", "--threads", "1"];

  interface Result {
    readonly files: { readonly sea: Readonly<Record<string, unknown>> };
    readonly mean_loss: number | null;
  }

  async function evaluated(...args: readonly string[]): Promise<Result> {
    const { code, stdout, stderr } = await runCli([
      "eval",
      at("dense"),
      "--data",
      at("sea.txt"),
      "--json",
      ...SIZES,
      ...args,
    ]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return JSON.parse(stdout) as Result;
  }

  test("compares the dense model, each expert and the router of a set", async () => {
    const result = await evaluated("--lora", at("set"), "--per-expert");
    const losses = result.files.sea["expert_losses"] as Record<string, number>;
    expect(Object.keys(losses)).toEqual(["none", "legal", "support"]);
    expect(losses["none"]).toBeCloseTo(await plainLoss(), 4);
    expect(losses["legal"]).toBeCloseTo(await plainLoss("legal"), 4);
    expect(losses["support"]).toBeCloseTo(await plainLoss("support"), 4);
    const shares = Object.values(result.files.sea["expert_shares"] as Record<string, number>);
    expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 9);
    const routed = await evaluated("--lora", at("set"));
    expect(result.mean_loss).toBe(routed.mean_loss);
    expect((await evaluated("--lora", at("set"), "--expert", "legal")).mean_loss).toBe(losses["legal"]);
  });

  test("runs no expert unless it is named, without a router", async () => {
    const loras = ["--lora", `law=${at("legal")}`, "--lora", at("support")];
    const plain = await evaluated();
    for (const args of [loras, [...loras, "--expert", "none"], ["--expert", "none"]]) {
      expect((await evaluated(...args)).mean_loss).toBe(plain.mean_loss);
    }
    const result = await evaluated(...loras, "--per-expert");
    expect(Object.keys(result.files.sea["expert_losses"] as object)).toEqual(["none", "law", "support"]);
    expect(result.files.sea["loss"]).toBeNull();
    const wrong = await runCli(["eval", at("dense"), "--data", at("sea.txt"), ...loras, "--expert", "legal"]);
    expect(wrong.code).toBe(2);
    expect(wrong.stderr).toContain("none, law, support");
  });
});

describe("inspect", () => {
  const ADAPTERS = ["all-linear-r8", "attention-r4", "rslora-r16"];

  interface Golden {
    readonly cases: readonly { readonly input_ids: readonly number[]; readonly last_logits: readonly number[] }[];
  }

  test("computes PyTorch's logits with each of several experts", async () => {
    const loras = ADAPTERS.flatMap((name) => ["--lora", fixture(`lora/llama-tied/${name}`)]);
    for (const [index, name] of [...ADAPTERS.entries(), [-1, "none"] as const]) {
      const { cases } = golden(index < 0 ? "families/llama-tied" : `lora/llama-tied/${name}`) as Golden;
      const [{ input_ids: ids, last_logits: expected } = { input_ids: [], last_logits: [] }] = cases.slice(1);
      const args = [...loras, "--precision", "fp32", "--expert", name, "--ids", ids.join(","), "--json"];
      const { stdout } = await runCli(["inspect", fixture("families/llama-tied"), ...args]);
      const { logits, route } = JSON.parse(stdout) as { logits: number[]; route: number[] };
      expect(largestDifference(logits, expected)).toBeLessThan(1e-3);
      expect(route).toEqual(ids.map(() => index + 1));
    }
  });

  test("shows the logits and choices of a set's router", async () => {
    const { stdout } = await runCli(["inspect", at("dense"), "--lora", at("set"), "--ids", "5,6,7", "--json"]);
    const { router_logits: rows, route } = JSON.parse(stdout) as { router_logits: number[][]; route: number[] };
    expect(rows.map((row) => row.length)).toEqual([3, 3, 3]);
    expect(route).toEqual(rows.map((row) => row.indexOf(Math.max(...row))));
  });
});

const PROMPT = "The ship was lost";

async function generated(...args: readonly string[]): Promise<Outcome> {
  const sampling = ["--precision", "fp32", "--prompt", PROMPT, "--max-new-tokens", "12", "--threads", "1", "--json"];
  return runCli(["generate", at("dense"), ...sampling, ...args]);
}

describe("generate", () => {
  test("runs the named expert, as the model with the adapter merged would go on", async () => {
    const { stdout, stderr } = await generated("--lora", at("legal"), "--expert", "legal");
    expect(stderr).toBe("");
    const { tokens } = JSON.parse(stdout) as { tokens: number[] };
    const model = await openModel(at("dense"));
    const expert = await openLora(at("legal"), "legal", model);
    const merged = await mergedModel(model, expert);
    const prompt = Array.from((await model.loadText()).tokenizer.encode(PROMPT));
    const ids = [...prompt, ...tokens];
    const rows = await plainLogits(merged, ids, new Uint16Array(ids.length));
    for (const [index, token] of tokens.entries()) {
      const row = rows[prompt.length + index - 1] ?? [];
      // The best one, but for rounding.
      expect(Math.max(...row) - (row[token] ?? NaN)).toBeLessThan(1e-3);
    }
    await Promise.all([expert.close(), model.close()]);
    const dense = await generated();
    expect((JSON.parse(dense.stdout) as { tokens: number[] }).tokens).not.toEqual(tokens);
    expect((await generated("--lora", at("legal"))).stdout).toBe(dense.stdout);
    expect((await generated("--lora", at("legal"), "--expert", "none")).stdout).toBe(dense.stdout);
  });

  test.each([
    [["--expert", "legal"], 2, /legal/],
    [["--lora", "a=/nowhere"], 1, /nowhere: no such folder/],
    [["--lora", "support=missing-org/missing", "--lora", "=x"], 2, /Expected NAME=FOLDER/],
  ])("refuses %j", async (args, code, message) => {
    const outcome = await generated(...args);
    expect(outcome).toMatchObject({ code, stdout: "" });
    expect(outcome.stderr).toMatch(message);
  });
});

test("serve completes with the expert that --expert names", async () => {
  const { stdout } = await generated("--lora", at("legal"), "--expert", "legal");
  const { text } = JSON.parse(stdout) as { text: string };
  const args = ["--precision", "fp32", "--lora", at("legal"), "--lora", at("support"), "--expert", "legal"];
  const serving = await startReady(at("dense"), { args });
  const answer = await serving.complete({ prompt: PROMPT, max_tokens: 12, temperature: 0, ignore_eos: false });
  expect(answer.status).toBe(200);
  expect(((await answer.json()) as { choices: { text: string }[] }).choices[0]?.text).toBe(text);
});
