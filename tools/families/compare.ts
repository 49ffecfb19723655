// Compares every precision with transformers' numbers, for checkpoints of make_checkpoints.py, and prints a table.
//
//   npm run compare:families -- <folder of checkpoints> [--only <part of a name>]
//
// Exits with 1 if float32 differs by more than a thousandth or chooses another token, if a batch changes a bit, or if a
// checkpoint cannot be opened.

import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openModel, type Precision } from "@readme-moe/model";
import { writeModelGguf } from "../../test/support/gguf/convert-model.ts";
import { writeHybridGguf } from "../../test/support/gguf/convert-hybrid.ts";
import { compareModel, type Comparison, type GoldenCase, isExact } from "./comparison.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { only: { type: "string", default: "" } },
});
const [root] = positionals;
if (root === undefined) throw new TypeError("Expected a folder of checkpoints");

/** GGUF files do not name the windows of most families; these prompts are shorter than all of them. */
const GGUF_PROMPT_TOKENS = 30;
const PRECISIONS: readonly Precision[] = ["fp32", "int8", "int4"];

const cacheFolder = await mkdtemp(join(tmpdir(), "families-"));
let hasFailed = false;
console.log(
  "| checkpoint | float32: logits | tokens | int8: logits | tokens | int4: logits | tokens | GGUF: logits | same bits |",
);
console.log(
  "| ---------- | --------------: | -----: | -----------: | -----: | -----------: | -----: | -----------: | :-------- |",
);
try {
  for (const name of (await readdir(root)).filter((one) => one.includes(values.only))) {
    const { cells, isRight } = await rowOf(join(root, name)).catch((error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      return { cells: [`fails: ${message.replaceAll("|", "/").replace(`${join(root, name)}/`, "")}`], isRight: false };
    });
    hasFailed ||= !isRight;
    console.log(`| ${[`\`${name}\``, ...cells].join(" | ")} |`);
  }
} finally {
  await rm(cacheFolder, { recursive: true });
}
process.exitCode = hasFailed ? 1 : 0;

async function rowOf(folder: string): Promise<{ readonly cells: readonly string[]; readonly isRight: boolean }> {
  const text = await readFile(join(folder, "golden.json"), "utf8");
  const { cases } = JSON.parse(text) as { readonly cases: readonly GoldenCase[] };
  const results: Comparison[] = [];
  for (const precision of PRECISIONS) {
    const model = await openModel(folder);
    results.push(await compareModel(model, cases, { precision, cacheFolder }));
  }
  const [exact] = results;
  const gguf = await compareGguf(folder, cases).catch(() => undefined);
  const hasSameBits = results.every(({ isSameInBatch }) => isSameInBatch);
  return {
    cells: [
      ...results.flatMap((result, index) => [
        index === 0 ? result.largestDifference.toExponential(1) : percent(result.relativeError),
        `${result.rightTokens} / ${result.comparedTokens}`,
      ]),
      gguf === undefined ? "none" : gguf.largestDifference.toExponential(1),
      hasSameBits ? "yes" : "**no**",
    ],
    isRight: exact !== undefined && isExact(exact) && hasSameBits && (gguf === undefined || isExact(gguf)),
  };
}

/** Compares the model as a GGUF file in float32. */
async function compareGguf(folder: string, cases: readonly GoldenCase[]): Promise<Comparison> {
  const path = join(cacheFolder, "model.gguf");
  const model = await openModel(folder);
  try {
    const { recurrence, hasSinks, normsValues, latent } = model.config;
    if (recurrence || hasSinks || normsValues || latent) await writeHybridGguf(folder, path);
    else await writeModelGguf(model, path, "F32");
  } finally {
    await model.close();
  }
  const comparable = cases.filter(({ input_ids: ids }) => ids.length <= GGUF_PROMPT_TOKENS);
  return compareModel(await openModel(path), comparable, { precision: "fp32", cacheFolder });
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
