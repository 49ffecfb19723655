// The command line shows mixtures, and refuses what they cannot do.

import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { plainLogProbs } from "../oracles/plain-log-probs.ts";
import { fixture } from "../support/fixtures.ts";
import { withModel } from "../support/mixture-folder.ts";
import { POCKET } from "../support/pocket.ts";
import { type MixtureShape, TINY_MIXTURE, writeRandomMixture } from "../support/random-mixture.ts";
import { runCli } from "../support/run-cli.ts";
import { largestDifference } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const HYBRID = fixture("hybrids/lfm2");
const BOOK = join(POCKET, "calibration", "book.jsonl");
const SHAPE: MixtureShape = { ...TINY_MIXTURE, modelType: "qwen3_moe", vocabSize: 4096, denseLayers: [1] };
const TEXT = "The ship was lost at sea. ".repeat(30);
const folder = await persistentFolder();
const mixture = join(folder, "mixture");

beforeAll(() => writeRandomMixture(mixture, SHAPE, { hasTokenizer: true }));

test("inspect counts the experts of a mixture, and the weights that a token uses", async () => {
  const outcome = await runCli(["inspect", mixture, "--json"]);
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
  const shown = JSON.parse(outcome.stdout) as { parameters: Readonly<Record<string, number>> };
  const { hiddenSize, expertSize, numExperts, expertsPerToken } = SHAPE;
  expect(shown).toMatchObject({
    kind: "mixture",
    config: { isMixture: [true, false, true] },
    experts: { count: numExperts, per_token: expertsPerToken, names: ["mixture"], expert_size: expertSize },
    router: null,
  });
  const perExpert = 2 * 3 * hiddenSize * expertSize;
  const { total = 0, active = 0, backbone = 0, per_expert: shownExpert } = shown.parameters;
  expect(shownExpert).toBe(perExpert);
  expect(total).toBe(backbone + numExperts * perExpert);
  expect(active).toBe(backbone + expertsPerToken * perExpert);
});

test("inspect, eval and generate run a mixture", async () => {
  const ids = [5, 900, 17, 3000];
  const inspected = await runCli(["inspect", mixture, "--precision", "fp32", "--ids", ids.join(), "--json"]);
  const { logits, route } = JSON.parse(inspected.stdout) as { logits: number[]; route: number[] };
  const expected = await withModel(mixture, (model) => plainLogits(model, ids, route));
  expect(largestDifference(logits, expected.at(-1) ?? [])).toBeLessThan(1e-3);
  expect(route).toEqual([0, 0, 0, 0]);
  const text = join(folder, "text.txt");
  await writeFile(text, TEXT);
  const sizes = ["--sequence-length", "32", "--max-sequences", "1"];
  const evaluated = await runCli(["eval", mixture, "--data", text, ...sizes, "--json"]);
  expect(evaluated).toMatchObject({ code: 0, stderr: "" });
  const { files } = JSON.parse(evaluated.stdout) as { files: Readonly<Record<string, { loss: number }>> };
  const plain = await withModel(mixture, async (model) => {
    const { tokenizer } = await model.loadText();
    const first = Array.from(tokenizer.encode(TEXT, { addSpecialTokens: false })).slice(0, 32);
    return plainLogProbs(model, first, new Uint16Array(31), 1);
  });
  expect(files["text"]?.loss).toBeCloseTo(-plain.reduce((sum, logProb) => sum + logProb, 0) / plain.length, 3);
  const generated = await runCli([
    "generate",
    mixture,
    "--precision",
    "fp32",
    "--prompt",
    "The ship",
    "--max-new-tokens",
    "4",
  ]);
  expect(generated).toMatchObject({ code: 0 });
});

test.each([
  [["refactor", "MIXTURE", "--data", BOOK, "--out", "x"], /is a mixture of 5 experts in each layer \(qwen3_moe\)/],
  [["refactor", "MIXTURE", "--data", BOOK, "--out", "x"], /only dense models can be refactored: name one/],
  [["tune", "MIXTURE", "--teacher", POCKET, "--data", BOOK, "--out", "x"], /only Read-ME models are tuned: make one/],
  [["tune", "MIXTURE", "--experts", "low-rank", "--data", BOOK, "--out", "x"], /trained over dense models: name one/],
  [
    ["refactor", HYBRID, "--data", BOOK, "--out", "x"],
    /is a hybrid, with layers without attention \(lfm2\); only dense/,
  ],
  [["tune", HYBRID, "--experts", "low-rank", "--data", BOOK, "--out", "x"], /a hybrid.*over dense models: name one/],
  [["export", HYBRID, "--out", "x"], /a hybrid.*only dense models can be/],
  [["export", "MIXTURE", "--out", "x"], /a mixture of 5 experts in each layer.*only dense models can be exported/],
  [["pack", "MIXTURE", "--base", POCKET, "--out", "x"], /is not a Read-ME model folder/],
])("%j is refused", async (args, message) => {
  const paths: Readonly<Record<string, string>> = { MIXTURE: mixture, x: join(folder, "refused") };
  const { code, stderr } = await runCli(args.map((arg) => paths[arg] ?? arg));
  expect(stderr).toMatch(message);
  expect(code).toBe(1);
  expect(existsSync(join(folder, "refused"))).toBe(false);
});
