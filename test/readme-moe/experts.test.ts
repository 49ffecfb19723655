// `readme-moe experts` as a user calls it, and `inspect` of models with loras.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel, writeExpertSet } from "@readme-moe/model";
import { describe, expect, test, vi } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { NAME, setUp } from "../support/hub-setup.ts";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { modelFolder, namesIn } from "../support/set-folders.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinySet } from "../support/tiny-set.ts";

const LORA = fixture("lora/llama-tied");
const ADAPTER = join(LORA, "attention-r4");

function experts(...args: readonly string[]): Promise<Outcome> {
  return runCli(["experts", ...args]);
}

test("experts are added, listed and removed", async () => {
  const folder = await modelFolder();
  expect(await experts("list", folder)).toMatchObject({ code: 0, stdout: "no loras\n", stderr: "" });
  const added = await experts("add", folder, ADAPTER, "--name", "legal");
  expect(added).toMatchObject({ code: 0, stderr: "" });
  expect(added.stdout).toMatch(/^added legal +rank 4 {2}q_proj, v_proj in 3 layers {2}2688 parameters/);
  const second = await experts("add", folder, join(LORA, "rslora-r16"), "--json");
  expect(JSON.parse(second.stdout)).toEqual({
    name: "rslora-r16",
    path: join(folder, "experts", "rslora-r16"),
    ranks: [16],
    modules: ["gate_proj", "up_proj", "down_proj"],
    layers: 3,
    parameters: 32_256,
    bytes: 129_024,
  });
  expect((await experts("list", folder)).stdout.split("\n").slice(2)).toEqual(["2 loras", ""]);
  expect(await experts("remove", folder, "legal")).toMatchObject({ code: 0, stdout: "removed legal\n" });
  const { stdout } = await experts("list", folder, "--json");
  expect(JSON.parse(stdout)).toMatchObject({ experts: [{ name: "rslora-r16" }], router: null });
});

test("all experts of a set are added, with their router where there were none", async () => {
  const [set, folder, other] = [join(await temporaryFolder(), "set"), await modelFolder(), await modelFolder()];
  const model = await openModel(folder);
  await writeExpertSet(set, await tinySet(model.config, { legal: {}, support: { modules: ["lm_head"] } }, 3));
  await model.close();
  const { code, stdout } = await experts("add", folder, set);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^added legal .*\nadded support +rank 4 {2}lm_head .*\n$/);
  expect((await experts("list", folder)).stdout).toMatch(/2 loras; the router chooses\n$/);
  await experts("add", other, ADAPTER, "--name", "own");
  const refused = await experts("add", other, set);
  expect(refused).toMatchObject({ code: 1, stdout: "" });
  expect(refused.stderr).toContain("--drop-router");
  const joined = await experts("add", other, set, "--drop-router", "--json");
  expect(JSON.parse(joined.stdout)).toMatchObject({ experts: [{ name: "legal" }, { name: "support" }] });
  expect(await namesIn(other)).toEqual(["own", "legal", "support"]);
  expect(await readdir(other)).not.toContain("router.safetensors");
  expect(await experts("add", folder, set, "--name", "x")).toMatchObject({ code: 2 });
});

test("an adapter comes from the hub, under the name of its repository", async () => {
  const names = ["adapter_config.json", "adapter_model.safetensors"];
  const files = await Promise.all(names.map(async (name) => [name, await readFile(join(ADAPTER, name))] as const));
  const { server, cacheFolder } = await setUp(Object.fromEntries(files));
  vi.stubEnv("HF_ENDPOINT", server.endpoint);
  vi.stubEnv("HF_HUB_CACHE", cacheFolder);
  try {
    const folder = await modelFolder();
    expect(await experts("add", folder, NAME)).toMatchObject({ code: 0, stderr: "" });
    expect(await namesIn(folder)).toEqual(["llama-tied"]);
    const missing = await experts("add", folder, "nobody/nothing");
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain("no such folder; as an adapter of the hub");
    const inspected = await runCli(["inspect", fixture("families/llama-tied"), "--lora", `a=${NAME}`, "--json"]);
    expect(JSON.parse(inspected.stdout)).toMatchObject({ low_rank: { experts: [{ name: "a", ranks: [4] }] } });
  } finally {
    vi.unstubAllEnvs();
  }
});

describe("a wrong call", () => {
  test("leaves the folder as it is, and says what is wrong", async () => {
    const folder = await modelFolder();
    const before = (await readdir(folder)).toSorted();
    const outcomes = await Promise.all([
      experts("add", folder, ADAPTER, "--name", "none"),
      experts("add", folder, fixture("lora/qwen3/pattern-r2-r6")),
      experts("add", folder, join(folder, "nowhere")),
      experts("add", join(folder, "model.safetensors"), ADAPTER),
      experts("add", "smollm2-135m", ADAPTER),
      experts("remove", folder, "legal"),
      experts("add", folder),
    ]);
    expect(outcomes.map(({ code }) => code)).toEqual([2, 1, 1, 1, 1, 1, 2]);
    const messages = [/other than `none`/, /may belong to another model/, /no such folder/, /is a file/, /--lora/];
    for (const [index, message] of [...messages, /has no read-me-experts.json/, /missing.*adapter/].entries()) {
      expect(outcomes[index]?.stderr).toMatch(message);
    }
    expect((await readdir(folder)).toSorted()).toEqual(before);
  });

  test("does not change a set that a router was trained for, unless it says so", async () => {
    const [set, folder] = [join(await temporaryFolder(), "set"), await modelFolder()];
    const model = await openModel(folder);
    await writeExpertSet(set, await tinySet(model.config, { legal: {}, support: {} }, 3));
    await model.close();
    const refused = await experts("remove", set, "legal");
    expect(refused).toMatchObject({ code: 1 });
    expect(refused.stderr).toContain("--drop-router");
    expect(await experts("remove", set, "legal", "--drop-router")).toMatchObject({ code: 0 });
    expect(await readdir(set)).not.toContain("router.safetensors");
  });
});

describe("inspect", () => {
  const MODEL = fixture("families/llama-tied");

  test("shows experts of the folder, of --lora, and of sets with their router", async () => {
    const [folder, set] = [await modelFolder(), join(await temporaryFolder(), "set")];
    await experts("add", folder, ADAPTER, "--name", "own");
    const model = await openModel(folder);
    await writeExpertSet(set, await tinySet(model.config, { legal: { modules: ["lm_head"] } }, 3));
    await model.close();
    const loras = ["--lora", `named=${join(LORA, "all-linear-r8")}`, "--lora", join(LORA, "rslora-r16"), "--lora", set];
    const { stdout } = await runCli(["inspect", folder, ...loras, "--json"]);
    const { low_rank: loraSet } = JSON.parse(stdout) as {
      low_rank: { experts: { name: string; modules: string[] }[]; router: { numExperts: number } };
    };
    expect(loraSet.experts.map(({ name }) => name)).toEqual(["legal", "own", "named", "rslora-r16"]);
    expect(loraSet.experts[0]?.modules).toEqual(["lm_head"]);
    expect(loraSet.router.numExperts).toBe(2);
    const text = await runCli(["inspect", folder]);
    expect(text.stdout).toMatch(/low_rank:\n {2}own +rank 4 .*\n {2}router: null\n$/);
  });

  test("says nothing of experts where there are none", async () => {
    const { stdout } = await runCli(["inspect", MODEL, "--json"]);
    expect(JSON.parse(stdout)).not.toHaveProperty("low_rank");
  });

  test.each([
    [["--lora", "a=", "--lora", "b"], /Expected NAME=FOLDER/],
    [["--lora", `a=${ADAPTER}`, "--lora", `a=${ADAPTER}`], /different names of --lora, got a twice/],
    [["--lora", `router=${ADAPTER}`], /other than `none` and `router`/],
  ])("refuses %j", async (args, message) => {
    const outcome = await runCli(["inspect", MODEL, ...args]);
    expect(outcome.code).toBe(2);
    expect(outcome.stderr).toMatch(message);
  });
});
