// `readme-moe serve` with a folder of experts, in another process.

import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { writeAdaptersOf, writeExpertBase } from "../support/expert-engine.ts";
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { postJson } from "../support/post-json.ts";
import { runCli } from "../support/run-cli.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let folder: string;
let model: string;
beforeAll(async () => {
  folder = await persistentFolder();
  model = await writeExpertBase(join(folder, "base"));
  await writeAdaptersOf(model, { [join(folder, "experts", "legal")]: {} });
});

test("operators load experts from the folder, and clients use them", async () => {
  const flags = [
    "--port",
    "0",
    "--threads",
    "1",
    "--api-key",
    "client-key",
    "--experts-folder",
    join(folder, "experts"),
  ];
  const child = startCommand(["serve", model, ...flags], { env: { README_MOE_OPERATOR_KEYS: "operator-key" } });
  const outcome = outcomeOf(child);
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await outcome;
  });
  if (!child.stdout) throw new Error("Expected standard output");
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  const url = /http:\/\/[\d.:]+/.exec(line)?.[0] ?? "";
  while ((await fetch(`${url}/health`)).status !== 200);

  const change = async (route: string, body: object): Promise<string> => {
    const headers = { "content-type": "application/json", authorization: "Bearer operator-key" };
    const response = await fetch(`${url}/v1/${route}`, { method: "POST", headers, body: JSON.stringify(body) });
    return response.text();
  };
  const ask = async (): Promise<number> => {
    const headers = { authorization: "Bearer client-key" };
    return (await postJson(`${url}/v1/completions`, { model: "base:legal", prompt: "x", max_tokens: 1 }, headers))
      .status;
  };
  expect(await ask()).toBe(404);
  expect(await change("load_lora_adapter", { lora_name: "legal", lora_path: "legal" })).toMatch(/^Success/);
  expect(await ask()).toBe(200);
  expect(await change("unload_lora_adapter", { lora_name: "base:legal" })).toMatch(/^Success/);
  expect(await ask()).toBe(404);
  child.kill("SIGTERM");
  expect(await outcome).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/^memory: [^\n]*\nstopping; [^\n]*\n$/) as unknown,
  });
});

test.each([
  [["--operator-key", "op"], "`experts.folder` together"],
  [["--experts-folder", "."], "`experts.operatorKeys` and"],
  [["--operator-key", "two words", "--experts-folder", "."], "`key-1`"],
  [["--operator-key", "same", "--api-key", "same", "--experts-folder", "."], "differ from `keys`"],
  [["--operator-key", "op", "--experts-folder", "/nowhere/at-all"], "existing folder"],
])("names wrong flags: %j", async (flags, named) => {
  const { code, stderr } = await runCli(["serve", model, ...flags]);
  expect(code).toBe(2);
  expect(stderr).toContain(named);
  expect(stderr).not.toMatch(/two words|same/);
});
