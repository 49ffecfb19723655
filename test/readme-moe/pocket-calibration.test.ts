// The calibration text in this repository is small, readable, attributed, and in no published package.

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ROOT, workspacePackages } from "../../tools/packages/workspace.ts";
import { readDocuments } from "../../packages/readme-moe/src/data-files.ts";

const FOLDER = join(ROOT, "models", "pocket", "calibration");
const DOMAINS = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"];
const LICENCES = new Set([
  "Apache-2.0",
  "BSD-3-Clause",
  "CC BY-SA", // Stack Exchange: 2.5, 3.0 or 4.0, by the date of the post
  "CC BY-SA 3.0",
  "CC BY-SA 4.0",
  "ISC",
  "MIT",
  "Public domain",
]);
/** The corpora that the pocket model was trained and is evaluated on. */
const SHARED = join(ROOT, "..", "shared", "data", "domains");
/** Distance between pieces of held-out text to search for, so that 100 common characters contain a whole piece. */
const STEP_CHARACTERS = 20;
const PIECE_CHARACTERS = 81;

interface Document {
  readonly text: string;
  readonly source: string;
  readonly license: string;
}

const pathOf = (domain: string): string => join(FOLDER, `${domain}.jsonl`);
const documentsOf = (path: string): readonly Document[] =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Document);
/** Collapses white space and rules of dashes, which are common without being copied. */
const plain = (text: string): string => text.replaceAll(/\s+/gu, " ").replaceAll(/(\W)\1+/gu, "$1");

test("there is one file for each expert, and every file is described", () => {
  const expected = [...DOMAINS.map((domain) => `${domain}.jsonl`), "LICENSES.md", "README.md"];
  expect(readdirSync(FOLDER).toSorted()).toEqual(expected.toSorted());
});

test.each(DOMAINS)("%s: small, attributed documents that the command line reads", async (domain) => {
  const bytes = statSync(pathOf(domain)).size;
  expect(bytes).toBeGreaterThan(130_000);
  expect(bytes).toBeLessThan(150_000);
  const readme = readFileSync(join(FOLDER, "README.md"), "utf8");
  const documents = documentsOf(pathOf(domain));
  expect(await readDocuments(pathOf(domain))).toEqual(documents.map(({ text, license }) => ({ text, license })));
  expect(new Set(documents.map(({ text }) => text)).size).toBe(documents.length);
  expect(documents.length).toBeGreaterThanOrEqual(20);
  for (const { text, source, license } of documents) {
    expect(text.length, source).toBeGreaterThanOrEqual(1000);
    expect(text.length, source).toBeLessThanOrEqual(8000);
    expect(LICENCES, source).toContain(license);
    expect(readme, source).toContain(`| ${source} | ${license} |`);
    const addresses = text.match(/[\w.%+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}/giu) ?? [];
    expect(
      addresses.filter((address) => address !== "user@example.com"),
      source,
    ).toEqual([]);
  }
});

test("every package whose sources are quoted has its copyright line", () => {
  const licences = readFileSync(join(FOLDER, "LICENSES.md"), "utf8");
  for (const { source } of documentsOf(pathOf("github"))) {
    const [name] = source.split(", ");
    expect(licences).toContain(`- ${name}: Copyright (c) `);
  }
});

test.skipIf(!existsSync(SHARED))("no document repeats an evaluation text (skipped without shared/data)", () => {
  const heldOut = new Set<string>();
  for (const name of readdirSync(SHARED)) {
    for (const [index, { text }] of documentsOf(join(SHARED, name)).entries()) {
      if (index % 12 !== 11) continue;
      const characters = plain(text);
      for (let start = 0; start + PIECE_CHARACTERS <= characters.length; start += STEP_CHARACTERS) {
        heldOut.add(characters.slice(start, start + PIECE_CHARACTERS));
      }
    }
  }
  expect(heldOut.size).toBeGreaterThan(10_000);
  for (const { text, source } of DOMAINS.flatMap((domain) => documentsOf(pathOf(domain)))) {
    const characters = plain(text);
    for (let start = 0; start + PIECE_CHARACTERS <= characters.length; start += 1) {
      const piece = characters.slice(start, start + PIECE_CHARACTERS);
      if (heldOut.has(piece)) expect.fail(`${source} repeats ${piece}`);
    }
  }
});

test("published packages contain what they build, not this text", () => {
  for (const {
    folder,
    manifest: { name, files },
  } of workspacePackages()) {
    expect(files, name).toContain("dist");
    const contents = readdirSync(folder, { recursive: true, encoding: "utf8" });
    const text = contents.filter((path) => DOMAINS.some((domain) => path.endsWith(`${domain}.jsonl`)));
    expect(text, name).toEqual([]);
  }
});
