import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { reportFigures } from "../../packages/readme-moe/src/plan/model-figures.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const cut = { router: { locality: 0.8 }, losses: [{ id: "ours", above_dense: 0.9 }, { id: "dense" }] };

test.each([
  ["a cut model's loss is that of its table", cut, { locality: 0.8, aboveDense: 0.9 }],
  [
    "a tuned model's loss is what tuning left of it",
    { ...cut, tuning: { before: { above_dense: 0.9 }, after: { above_dense: 0.4 } } },
    { locality: 0.8, aboveDense: 0.4 },
  ],
  ["a report without figures says nothing", {}, { locality: undefined, aboveDense: undefined }],
  ["a share outside of 0 to 1 is none", { router: { locality: 7 } }, { locality: undefined, aboveDense: undefined }],
])("%s", async (_, report, figures) => {
  const folder = await temporaryFolder();
  await writeFile(join(folder, "report.json"), JSON.stringify(report));
  expect(await reportFigures(folder)).toEqual(figures);
});

test("a folder without a report, or with half of one, gives no figures", async () => {
  const folder = await temporaryFolder();
  expect(await reportFigures(folder)).toEqual({});
  await writeFile(join(folder, "report.json"), '{"losses": [');
  expect(await reportFigures(folder)).toEqual({});
});
