// An exported folder, loaded by transformers.js. That version is no dependency of this repository: the test runs only
// if `npm run bench` has installed it.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { openModel } from "@readme-moe/model";
import { exportTransformersJs } from "@readme-moe/refactor";
import { expect, test } from "vitest";
import { golden } from "../support/fixtures.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const LIBRARY = join(ROOT, "bench/peers/node_modules/@huggingface/transformers/dist/transformers.node.mjs");

test.skipIf(!existsSync(LIBRARY))(
  "transformers.js continues texts with an exported folder, alone and in batches (skipped without its library)",
  async () => {
    const folder = join(await temporaryFolder(), "pocket");
    const model = await openModel(join(ROOT, "models", "pocket"));
    await exportTransformersJs(model, folder);
    const { tokenizer } = await model.loadText();
    await model.close();
    const { cases } = golden("pocket") as { cases: { text: string; greedy_32: number[]; smallest_gap: number }[] };
    const sure = cases.filter((one) => one.smallest_gap > 0.002);
    // Runs in another process, since two copies of the inference runtime fail in one.
    const program = `
    const { env, pipeline } = await import(${JSON.stringify(pathToFileURL(LIBRARY).href)});
    env.allowRemoteModels = false;
    const texts = ${JSON.stringify(sure.map((one) => one.text))};
    const answers = {};
    for (const dtype of ["fp32", "q8", "q4"]) {
      const generate = await pipeline("text-generation", ${JSON.stringify(folder)}, { dtype });
      const options = { max_new_tokens: 32, min_new_tokens: 32, return_full_text: false };
      const batch = await generate(texts, options);
      answers[dtype] = { batch: batch.map(([one]) => one.generated_text) };
      answers[dtype].alone = (await generate(texts[0], options))[0].generated_text;
      await generate.dispose();
    }
    console.log(JSON.stringify(answers));`;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", program]);
    const answers = JSON.parse(stdout) as Record<string, { batch: string[]; alone: string }>;
    const expected = sure.map((one) => tokenizer.decode(one.greedy_32, { skipSpecialTokens: true }));
    expect(answers["fp32"]).toEqual({ batch: expected, alone: expected[0] });
    for (const dtype of ["q8", "q4"]) {
      expect(answers[dtype]?.batch).toHaveLength(sure.length);
      expect(answers[dtype]?.batch.every((text) => text.length > 0)).toBe(true);
    }
  },
);
