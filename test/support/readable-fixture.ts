// Fixtures with a tokenizer, so that engines open them.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";
import { fixture } from "./fixtures.ts";
import { bpeModel, byteLevelDefinition } from "./tokenizer-definitions.ts";

/** Number of tokens of the fixtures of hybrids, layers and sinks. */
export const FIXTURE_VOCABULARY = 128;

/** Copies a fixture beside a tokenizer of single bytes into a folder. @returns its path */
export async function readableFixture(name: string, folder: string): Promise<string> {
  const path = join(folder, "model");
  await cp(fixture(name), path, { recursive: true });
  const model = bpeModel(CHARACTER_OF_BYTE.slice(0, FIXTURE_VOCABULARY), []);
  await writeFile(join(path, "tokenizer.json"), JSON.stringify(byteLevelDefinition([], { model })));
  return path;
}
