// `readme-moe serve` with several models: opened when requests ask for them, and closed again.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";
import { divideMemory } from "../../packages/readme-moe/src/serving/open-models.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { runCli } from "../support/run-cli.ts";
import { startReady, until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let [one, two] = ["", ""];
beforeAll(async () => {
  const folder = await persistentFolder();
  [one, two] = [join(folder, "one"), join(folder, "two")];
  await writeReadingModel(one, { seed: 1 });
  await writeReadingModel(two, { seed: 2 });
});

const textOf = async (answer: Response): Promise<string> => {
  const { choices } = (await answer.json()) as { readonly choices: readonly { readonly text: string }[] };
  return choices[0]?.text ?? "";
};

async function workersOf(pid: number | undefined): Promise<number> {
  // Exit code 1: there are none.
  const found = await promisify(execFile)("ps", ["-o", "pid=", "--ppid", `${pid}`]).catch(() => ({ stdout: "" }));
  return found.stdout.split("\n").filter((line) => line.trim() !== "").length;
}

describe("several models", () => {
  test("are opened when requests ask for them, listed from the start, and closed with their processes", async () => {
    const args = [two, "--ollama", "--alias", "gpt", "other=two", "--isolation", "process"];
    const { url, child, complete, logged, entries } = await startReady(one, { args });
    expect(entries[0]).toMatchObject({ event: "server:listening", model: "one", models: ["one", "two"] });
    const listed = (await (await fetch(`${url}/v1/models`)).json()) as {
      readonly data: readonly { readonly id: string; readonly max_model_len: number }[];
    };
    expect(listed.data.map(({ id }) => id)).toEqual(["one", "gpt", "two", "other"]);
    for (const { max_model_len: length } of listed.data) expect(length).toBeGreaterThan(0);
    expect(await workersOf(child.pid)).toBe(0);

    const texts: Record<string, string> = {};
    for (const model of ["one", "two"]) texts[model] = await textOf(await complete({ model, temperature: 0 }));
    await logged("model:opened", ({ name }) => name === "one");
    await logged("model:opened", ({ name }) => name === "two");
    expect(await workersOf(child.pid)).toBe(2);
    // The first answers requests that name none, and aliases stand for both.
    expect(await textOf(await complete({ temperature: 0 }))).toBe(texts["one"]);
    expect(await textOf(await complete({ model: "other", temperature: 0 }))).toBe(texts["two"]);

    const body = JSON.stringify({ model: "two", prompt: "", keep_alive: 0 });
    await fetch(`${url}/api/generate`, { method: "POST", headers: { "content-type": "application/json" }, body });
    await logged("model:closed", ({ name }) => name === "two");
    expect(await workersOf(child.pid)).toBe(1);
    expect(await textOf(await complete({ model: "two", temperature: 0 }))).toBe(texts["two"]);
  });

  test("take turns where --memory holds one, and requests wait for their turn", async () => {
    const { complete, entries, logged } = await startReady(one, { args: [two, "--memory", "150MB"] });
    const names = ["one", "two", "two", "one"];
    const answers = await Promise.all(names.map((model) => complete({ model, temperature: 0 })));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    const [a, b, c, d] = await Promise.all(answers.map(textOf));
    expect([a, b]).toEqual([d, c]);
    await logged("model:opened", ({ name }) => name === "two");
    const changes = entries.filter(({ event }) => event === "model:opened" || event === "model:closed");
    // One is closed before the other is open.
    expect(changes.map(({ event }) => event).slice(0, 3)).toEqual(["model:opened", "model:closed", "model:opened"]);
    const small = await runCli(["serve", one, two, "--port", "0", "--memory", "20MB"]);
    expect([small.code, small.stderr]).toEqual([2, expect.stringContaining("--memory")]);
  });

  test("share memory equally where all fit, and take turns in all of it otherwise", () => {
    expect(divideMemory([10, 30], 100)).toEqual([40, 60]);
    expect(divideMemory([10, 30], 40)).toEqual([10, 30]);
    expect(divideMemory([10, 30], 39)).toEqual([39, 39]);
  });

  test.each([
    [["--name", "mine"], "--name"],
    [["--lora", "legal"], "--lora"],
    [["--record-trace", "trace.jsonl"], "--record-trace"],
    [["--keep-alive", "soon"], "--keep-alive"],
    [["--alias", "two"], "`two`"],
  ])("names wrong flags: %j", async (flags, named) => {
    const { code, stderr } = await runCli(["serve", one, two, "--port", "0", ...flags]);
    expect([code, stderr]).toEqual([2, expect.stringContaining(named)]);
  });

  test("of one name are refused, and one that is not there ends the server with a message", async () => {
    const twice = await runCli(["serve", one, one, "--port", "0"]);
    expect([twice.code, twice.stderr]).toEqual([2, expect.stringContaining("`one` twice")]);
    const missing = await runCli(["serve", one, "/nowhere/at-all", "--port", "0", "--threads", "1"]);
    expect([missing.code, missing.stderr]).toEqual([1, expect.stringMatching(/nowhere.*\(ERR_FILE_NOT_FOUND\)\n$/)]);
  });
});

test("one model with --keep-alive is open from the start, closes when it is idle, and opens again", async () => {
  const { child, complete, logged, entries } = await startReady(one, { args: ["--keep-alive", "0"] });
  await logged("model:opened");
  await logged("model:closed");
  await until(async () => (await workersOf(child.pid)) === 0);
  expect((await complete({ model: "one" })).status).toBe(200);
  await expect.poll(() => entries.filter(({ event }) => event === "model:closed").length).toBe(2);
  expect(entries.filter(({ event }) => event === "model:opened")).toHaveLength(2);
});
