import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MODEL_TYPES } from "../../packages/model/src/config/families.ts";

const DOCS = join(import.meta.dirname, "..", "..", "docs");

test.each([
  ["model-folder.md", "Supported families", "Other models"],
  ["families.md", "They differ in the", "RoPE may be scaled"],
])("docs/%s lists every family", (page, before, after) => {
  const [, table = ""] = readFileSync(join(DOCS, page), "utf8").split(before);
  const [rows = ""] = table.split(after);
  const listed = Array.from(rows.matchAll(/^\| `(\w+)` +\|/gm), ([, name]) => name);
  expect(listed.filter((name) => name !== "model_type")).toEqual(MODEL_TYPES);
});
