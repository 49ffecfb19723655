// Opening a draft model for another model: what fits, and what is refused by name.

import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { resolveEngineOptions } from "@readme-moe/engine";
import { kvBytesPerToken } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { type DraftModelOptions, openDraftModel } from "../../../packages/engine/src/speculation/model-drafter.ts";
import { openEngine } from "../../../packages/engine/src/worker/open-engine.ts";
import { writeFirstLayers } from "../../support/first-layers.ts";
import { cases, POCKET } from "../../support/pocket.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";
import { writeTinyDense } from "../../support/tiny-dense.ts";
import { writeReadingModel } from "../../support/reading-model.ts";

const VOCABULARY = 4096;
const nothing = (): void => undefined;

/** Opens a draft model for the pocket model, and closes it. */
async function open(path: string, options: DraftModelOptions = {}): Promise<void> {
  const target = await openModel(POCKET);
  try {
    await (await openDraftModel(path, options, target)).dispose();
  } finally {
    await target.close();
  }
}

/** The part of tokenizer.json that has the tokens. */
interface BpeModel {
  vocab: Record<string, number>;
  merges: (string | readonly string[])[];
}

/** A copy of the pocket model's first layer with a changed tokenizer. */
async function withTokenizer(change: (model: BpeModel) => void): Promise<string> {
  const path = join(await temporaryFolder(), "changed");
  await writeFirstLayers(POCKET, path, 1);
  const file = join(path, "tokenizer.json");
  const tokenizer = JSON.parse(await readFile(file, "utf8"));
  change(tokenizer.model);
  await writeFile(file, JSON.stringify(tokenizer));
  return path;
}

describe("a draft model", () => {
  test("with the same tokens is opened, whatever its layers", async () => {
    const folder = await temporaryFolder();
    await writeTinyDense(join(folder, "tiny"), 1);
    await expect(open(join(folder, "tiny"))).resolves.toBeUndefined();
    await expect(open(POCKET, { precision: "int4" })).resolves.toBeUndefined();
  });

  test("with other tokens is refused, with the first one that differs", async () => {
    const other = await withTokenizer(({ vocab }) => {
      const spellings = Object.keys(vocab).toSorted((x, y) => (vocab[x] as number) - (vocab[y] as number));
      [vocab[spellings[1234] as string], vocab[spellings[2345] as string]] = [2345, 1234];
    });
    await expect(open(other)).rejects.toThrow(RangeError);
    await expect(open(other)).rejects.toThrow(/`draft`.*token 1234 is ".+", not ".+"; got `.*changed`/);
  });

  test("with fewer tokens is refused", async () => {
    const fewer = await withTokenizer((model) => {
      const [last = ""] = Object.entries(model.vocab).find(([, id]) => id === VOCABULARY - 1) ?? [];
      delete model.vocab[last];
      model.merges = model.merges.filter(
        (pair) => (typeof pair === "string" ? pair.replace(" ", "") : pair.join("")) !== last,
      );
    });
    await expect(open(fewer)).rejects.toThrow(/`draft`.*token 4095 is ".+", not none/);
  });

  test("with experts is refused", async () => {
    const path = join(await temporaryFolder(), "experts");
    await writeReadingModel(path);
    await expect(open(path)).rejects.toThrow(/`draft` to be a dense model, not one of 3 experts; got `.*experts`/);
  });

  test("that is missing, or has no tokenizer, is refused as a model is", async () => {
    await expect(open("")).rejects.toThrow(/`draft` to name a folder or a GGUF file, got `""`/);
    await expect(open(join(await temporaryFolder(), "missing"))).rejects.toThrow(ReadMeError);
    const path = join(await temporaryFolder(), "silent");
    await mkdir(path);
    for (const name of ["config.json", "model.safetensors"]) await copyFile(join(POCKET, name), join(path, name));
    await expect(open(path)).rejects.toThrow(/tokenizer\.json/);
  });

  test("is closed when an option is wrong", async () => {
    const leastBytes = 64 * kvBytesPerToken({ numLayers: 6, numKvHeads: 2, headSize: 64 });
    await expect(open(POCKET, { kvBytes: leastBytes - 1 })).rejects.toThrow(`\`kvBytes\` to be at least ${leastBytes}`);
    await open(POCKET, { kvBytes: leastBytes });
    await expect(open(POCKET, { chunkTokens: 0 })).rejects.toThrow(/`chunkTokens`/);
    await expect(open(POCKET, { leastChance: 2 })).rejects.toThrow(/`leastChance`/);
  });
});

test("an engine opens the draft model that its options name, and closes it", async () => {
  const draft = join(await temporaryFolder(), basename(POCKET));
  await writeFirstLayers(POCKET, draft, 2);
  const output = {
    accepted: nothing,
    reading: nothing,
    chunk: nothing,
    logits: nothing,
    ask: nothing,
    failed: nothing,
    event: nothing,
  };
  const options = resolveEngineOptions({ precision: "int8", draft });
  const engine = await openEngine(POCKET, options, output, nothing);
  const { draftModel, text } = engine;
  const tokenIds = Array.from(text.tokenizer.encode(cases[0]?.text ?? ""));
  const [first] = (await draftModel?.propose([{ id: "a", tokenIds, mostTokens: 4 }])) ?? [];
  expect(first?.source).toBe("model");
  expect(first?.tokenIds.length).toBeGreaterThan(0);
  await engine.close();
  expect(draftModel?.bytes).toBe(0);
  const without = await openEngine(POCKET, resolveEngineOptions({ precision: "int8" }), output, nothing);
  expect(without.draftModel).toBeUndefined();
  await without.close();
});
