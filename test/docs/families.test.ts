import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MODEL_TYPES } from "../../packages/model/src/config/families.ts";

const PAGE = join(import.meta.dirname, "..", "..", "docs", "model-folder.md");

test("docs/model-folder.md lists every family", () => {
  const [, table = ""] = readFileSync(PAGE, "utf8").split("Supported families");
  const [rows = ""] = table.split("Other models");
  const listed = Array.from(rows.matchAll(/^\| `(\w+)` +\|/gm), ([, name]) => name);
  expect(listed.filter((name) => name !== "model_type")).toEqual(MODEL_TYPES);
});
