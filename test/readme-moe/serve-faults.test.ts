// Faults of a running server: log, health and metrics are as the documentation describes them. Slower tests are in
// test/faults.

import { readFileSync } from "node:fs";
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { documentedFaults, loggedAsDocumented, shownAsDocumented } from "../support/documented-faults.ts";
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { decoderFile, startReady, type ServingProcess } from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Long enough to be observed on a busy machine. */
const SLOW_RESTART = ["--restart-delay-ms", "5000"];
/** One layer of all experts. */
const BUDGET = ["--expert-cache", "26880", "--expert", "0"];
const KILLED = "the engine's process is killed";
const CACHE_CUT = "packed weights are cut, experts under a budget";
const NO_CACHE = "the cache folder cannot be written";
const MODEL_CUT = "the model's file is cut before it is opened";

async function setUp(): Promise<{ readonly model: string; readonly cacheFolder: string }> {
  const folder = await temporaryFolder();
  const model = join(folder, "tiny");
  await writeReadingModel(model, { numExperts: 3 });
  return { model, cacheFolder: join(folder, "cache") };
}

async function statusOf(server: ServingProcess, expert: number): Promise<number> {
  const response = await server.complete({ read_me: { expert } });
  await response.text();
  return response.status;
}

test(KILLED, async () => {
  const { model, cacheFolder } = await setUp();
  const server = await startReady(model, { args: ["--cache-folder", cacheFolder, ...SLOW_RESTART] });
  process.kill(await server.workerPid(), "SIGKILL");
  const fault = await shownAsDocumented(KILLED, server);
  await loggedAsDocumented(fault, server);
  expect(await statusOf(server, 0)).toBe(200);
  const failed = await server.logged("engine:failed");
  expect(failed).toMatchObject({ model: "tiny", code: "ERR_ENGINE_FAILED" });
  expect(failed["message"]).toContain("SIGKILL");
});

test(CACHE_CUT, async () => {
  const { model, cacheFolder } = await setUp();
  const server = await startReady(model, { args: ["--cache-folder", cacheFolder, ...BUDGET, ...SLOW_RESTART] });
  expect(await statusOf(server, 0)).toBe(200);
  await truncate(await decoderFile(cacheFolder), 0);
  const failures = [await statusOf(server, 1), await statusOf(server, 1), await statusOf(server, 1)];
  expect(failures).toEqual([500, 500, 500]);
  const fault = await shownAsDocumented(CACHE_CUT, server);
  const message = ((await (await fetch(`${server.url}/health`)).json()) as { error: { message: string } }).error
    .message;
  expect(message).toMatch(/model tiny .*ERR_FILE_UNREADABLE/);
  expect(message).not.toContain(cacheFolder);
  await loggedAsDocumented(fault, server);
  // The server has found that the file was cut, and has packed it again.
  expect([await statusOf(server, 1), await statusOf(server, 2)]).toEqual([200, 200]);
  server.child.kill("SIGTERM");
  await server.outcome;
  const told = server.entries.filter(({ event }) => event === "request:failed");
  expect(told).toMatchObject([
    { model: "tiny", status: 500 },
    { model: "tiny", status: 500, repeated: 2 },
  ]);
  expect(told[0]?.["causes"]).toMatchObject([
    { code: "ERR_FILE_UNREADABLE" },
    { message: expect.stringContaining("0 of") },
  ]);
  expect(told[0]?.["requestId"]).toMatch(/^[0-9a-f-]{36}$/);
});

test(NO_CACHE, async () => {
  const { model, cacheFolder } = await setUp();
  await writeFile(cacheFolder, "a file");
  const server = await startReady(model, { args: ["--cache-folder", cacheFolder] });
  await shownAsDocumented(NO_CACHE, server);
  expect(await statusOf(server, 0)).toBe(200);
  server.child.kill("SIGTERM");
  expect((await server.outcome).stderr).toMatch(/^note: the model is not cached: E[A-Z]+/);
});

test("a server with streamed experts refuses to start without room for packed weights, and prints why", async () => {
  const { model, cacheFolder } = await setUp();
  await writeFile(cacheFolder, "a file");
  const args = ["serve", model, "--port", "0", "--cache-folder", cacheFolder, ...BUDGET];
  const { code, stderr } = await outcomeOf(startCommand(args));
  expect(code).toBe(1);
  expect(stderr).toContain("ERR_WRITE_FAILED");
});

test(MODEL_CUT, async () => {
  const { model, cacheFolder } = await setUp();
  await truncate(join(model, "backbone.safetensors"), 1000);
  const { code, stderr } = await outcomeOf(
    startCommand(["serve", model, "--port", "0", "--cache-folder", cacheFolder]),
  );
  expect(code).toBe(1);
  expect(stderr).toMatch(/error: .*backbone\.safetensors.*\(ERR_FILE_CORRUPT\)/);
});

test("the log as text has each failure with its reason once", async () => {
  const { model, cacheFolder } = await setUp();
  const child = startCommand([
    "serve",
    model,
    "--port",
    "0",
    "--threads",
    "1",
    "--cache-folder",
    cacheFolder,
    ...BUDGET,
  ]);
  const outcome = outcomeOf(child);
  const url = await new Promise<string>((resolve) => {
    child.stdout?.on("data", (text: Buffer) => resolve(/http:[^/]*\/\/[\d.:]+/.exec(text.toString())?.[0] ?? ""));
  });
  while ((await fetch(`${url}/health`)).status !== 200);
  await truncate(await decoderFile(cacheFolder), 0);
  const body = JSON.stringify({ prompt: "a secret", max_tokens: 3, read_me: { expert: 1 } });
  const headers = { "content-type": "application/json", "x-request-id": "r-7" };
  for (let left = 3; left > 0; left--) await fetch(`${url}/v1/completions`, { method: "POST", headers, body });
  while ((await fetch(`${url}/health`)).status !== 200);
  child.kill("SIGTERM");
  const { stderr } = await outcome;
  const lines = stderr.trim().split("\n");
  expect(lines.filter((line) => line.startsWith("error: the request r-7 to tiny failed with 500: "))).toHaveLength(1);
  expect(lines.filter((line) => line.startsWith("error: 2 more requests to tiny failed with 500 within"))).toHaveLength(
    1,
  );
  expect(stderr).toMatch(/layer \d of expert 1 cannot be read: 0 of \d+ bytes are there \(ERR_FILE_UNREADABLE\)$/m);
  expect(stderr).toContain(
    "error: the model tiny has failed 3 requests in a row and is not ready; its engine is closed and opened again: ",
  );
  expect(stderr).toContain("the model tiny works again, after attempt 1");
  expect(stderr).not.toContain("secret");
});

test("every fault of the documentation's table is tested", () => {
  const sources = [import.meta.filename, join(import.meta.dirname, "..", "faults", "serving.faults.ts")];
  const text = sources.map((path) => readFileSync(path, "utf8")).join("\n");
  const names = documentedFaults().map(({ name }) => name);
  expect(names.length).toBeGreaterThan(8);
  for (const name of names) expect(text, name).toContain(`"${name}"`);
});
