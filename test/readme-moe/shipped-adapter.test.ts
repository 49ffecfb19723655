// The adapter file of this repository, and its page.

import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { heldOutFiles } from "../../bench/quality/held-out.ts";
import { DeltaFile } from "../../packages/refactor/src/delta/delta-file.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { runCli } from "../support/run-cli.ts";
import { sharedModel } from "../support/shared.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const FOLDER = join(import.meta.dirname, "..", "..", "models", "smollm2-135m");
const ADAPTER = join(FOLDER, "smollm2-135m.adapter");
/** Text of the seven kinds, beside the repository. */
const DATA = join(import.meta.dirname, "..", "..", "..", "shared", "data", "domains");
const smollm2 = sharedModel("smollm2-135m-instruct");

test("is one whole file of at most 60 MB, whose description has no local paths", async () => {
  expect((await stat(ADAPTER)).size).toBeLessThanOrEqual(60e6);
  const adapter = await DeltaFile.open(ADAPTER);
  await adapter.check();
  const { content } = adapter;
  const documents = await adapter.documents();
  await adapter.close();
  expect(content.base).toMatchObject({ name: "SmolLM2-135M-Instruct.Q4_1", license: "apache-2.0" });
  expect(content.readme).toMatchObject({ num_experts: 7, expert_size: 768 });
  const page = await readFile(join(FOLDER, "README.md"), "utf8");
  expect(page).toContain(content.base.sha256);
  for (const text of [JSON.stringify(content.readme), ...Object.values(documents)]) {
    expect(text).not.toMatch(/\/(work|tmp|home|root|Users)\//);
  }
});

describe.skipIf(!smollm2 || !existsSync(DATA))("applied to SmolLM2 (skipped without shared/models)", () => {
  let experts: string;
  beforeAll(async () => {
    const folder = await persistentFolder();
    // Other tests do not need its graphs of more than a gigabyte.
    vi.stubEnv("README_MOE_CACHE", join(folder, "cache"));
    experts = join(folder, "experts");
    const applied = await runCli(["apply", ADAPTER, "--base", smollm2!, "--out", experts, "--json"]);
    expect(applied).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(applied.stdout)).toMatchObject({ match: "same" });
  }, 600_000);
  afterAll(() => void vi.unstubAllEnvs());

  test("it generates an answer", async () => {
    const options = ["--precision", "fp32", "--temperature", "0", "--max-new-tokens", "12"];
    const { stdout } = await runCli(["chat", experts, ...options], "What is the capital of France?\n");
    expect(stdout).toContain("Paris");
  });

  test("it is not far above the dense model on a sequence of two kinds", { timeout: 600_000 }, async () => {
    const [dense, applied] = [await meanLoss(smollm2!, 1), await meanLoss(experts, 1)];
    expect(applied - dense).toBeGreaterThan(0.3);
    expect(applied - dense).toBeLessThan(0.6);
  });

  const long = test.runIf(RUNS_LONG_TESTS);
  long("it has the loss above the dense model that its page gives", { timeout: 600_000 }, async () => {
    const page = await readFile(join(FOLDER, "README.md"), "utf8");
    const [, said] = /^\| as shipped.*\+(\d\.\d+)/m.exec(page) ?? [];
    expect((await meanLoss(experts, 4)) - (await meanLoss(smollm2!, 4))).toBeCloseTo(Number(said), 2);
  });
});

/** Mean over held-out documents: with four sequences of each of the seven kinds as on the page, else of two kinds. */
async function meanLoss(model: string, maxSequences: number): Promise<number> {
  const files = await heldOutFiles([DATA], await persistentFolder());
  const data = maxSequences >= 4 ? files : files.slice(0, 2);
  const args = [
    "eval",
    model,
    "--precision",
    "fp32",
    "--data",
    ...data,
    "--max-sequences",
    String(maxSequences),
    "--json",
  ];
  return (JSON.parse((await runCli(args)).stdout) as { mean_loss: number }).mean_loss;
}
