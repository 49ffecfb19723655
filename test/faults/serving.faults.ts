// Faults that take a while, each provoked on a server that runs: what its log, health and metrics say is what the
// documentation has. `npm run test:faults`.

import { copyFile, readdir, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import {
  documentedFault,
  loggedAsDocumented,
  shownAsDocumented,
  type DocumentedFault,
} from "../support/documented-faults.ts";
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import {
  canLimit,
  decoderFile,
  limitProcess,
  packedFiles,
  startReady,
  until,
  type ServingProcess,
} from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const FROZEN = "the engine's process is frozen or loops for ever";
const MAPPED_CUT = "packed weights are cut, all in memory";
const MODEL_CUT = "the model's file is cut, and the engine has to be opened again";
const DISK_FULL = "the disk is full, and packed weights have to be made again";
const NO_DESCRIPTORS = "no file descriptors are left, and the engine has to be opened again";
const NO_RESTARTS = "the engine's process is killed, with `--no-restart`";
const CLOCK_BACK = "the clock is set back";
const SLOW_RESTART = ["--restart-delay-ms", "5000"];
/** A default expert leaves the router out, so that the cache has one packed file. */
const NO_ROUTER = ["--expert", "0"];
const BUDGET = ["--expert-cache", "26880", ...NO_ROUTER];

interface Setup {
  readonly model: string;
  readonly cacheFolder: string;
  readonly start: (args?: readonly string[], env?: Readonly<Record<string, string>>) => Promise<ServingProcess>;
}

async function setUp(): Promise<Setup> {
  const folder = await temporaryFolder();
  const [model, cacheFolder] = [join(folder, "tiny"), join(folder, "cache")];
  await writeReadingModel(model, { numExperts: 3 });
  return {
    model,
    cacheFolder,
    start: (args = [], env = {}) => startReady(model, { args: ["--cache-folder", cacheFolder, ...args], env }),
  };
}

async function statusOf(server: ServingProcess, body?: object): Promise<number> {
  const response = await server.complete(body);
  await response.text();
  return response.status;
}

test(FROZEN, async () => {
  const { start } = await setUp();
  const server = await start(["--hung-ms", "1000", ...SLOW_RESTART]);
  process.kill(await server.workerPid(), "SIGSTOP");
  const asked = statusOf(server);
  const fault = await shownAsDocumented(FROZEN, server);
  expect(await asked).toBe(503);
  await loggedAsDocumented(fault, server);
  expect((await server.logged("engine:failed"))["message"]).toContain("gave no sign of life");
  expect(await statusOf(server)).toBe(200);
});

test("time in which server and engine are both suspended is no silence of the engine", async () => {
  const { start } = await setUp();
  const server = await start(["--hung-ms", "1000"]);
  const pids = [server.child.pid as number, await server.workerPid()];
  const asked = statusOf(server, { max_tokens: 200 });
  for (const pid of pids) process.kill(pid, "SIGSTOP");
  // Longer than any limit of this engine.
  await setTimeout(12_000);
  for (const pid of pids) process.kill(pid, "SIGCONT");
  expect(await asked).toBe(200);
  expect(server.entries.map(({ event }) => event)).not.toContain("engine:failed");
});

test(MAPPED_CUT, async () => {
  const { cacheFolder, start } = await setUp();
  const server = await start([...SLOW_RESTART, ...NO_ROUTER]);
  const file = await decoderFile(cacheFolder);
  const { size } = await stat(file);
  await truncate(file, size / 2);
  // Nobody has to ask: the engine looks at its files.
  const fault = await shownAsDocumented(MAPPED_CUT, server);
  expect(await statusOf(server)).toBe(503);
  await loggedAsDocumented(fault, server);
  expect(await statusOf(server)).toBe(200);
  expect((await server.logged("engine:failed"))["message"]).toContain("was cut or overwritten while it was in use");
  expect((await stat(await decoderFile(cacheFolder))).size).toBe(size);
});

test("a request that meets cut weights first ends the engine's process, which is opened again", async () => {
  const { cacheFolder, start } = await setUp();
  const server = await start(["--restart-delay-ms", "200"]);
  for (const file of await packedFiles(cacheFolder)) await truncate(file, 0);
  expect(await statusOf(server)).toBe(503);
  await server.logged("engine:restarted");
  expect(await statusOf(server)).toBe(200);
});

test.skipIf(!canLimit)("packed weights that are cut while the disk is full stay in memory", async () => {
  const { cacheFolder, start } = await setUp();
  const server = await start(["--restart-delay-ms", "200"]);
  const choicesOf = async (): Promise<unknown> =>
    ((await (await server.complete({ temperature: 0 })).json()) as { readonly choices: unknown }).choices;
  const expected = await choicesOf();
  // As if the disk had no room: no file may be longer.
  await limitProcess(server.child.pid as number, "--fsize=4096:");
  for (const file of await packedFiles(cacheFolder)) await truncate(file, 0);
  await server.logged("engine:restarted");
  expect(await choicesOf()).toEqual(expected);
});

describe("the model's file", () => {
  test(MODEL_CUT, async () => {
    const { model, start } = await setUp();
    const server = await start(["--restart-attempts", "2", "--restart-delay-ms", "200"]);
    await truncate(join(model, "backbone.safetensors"), 1000);
    // What is open does not need it.
    expect(await statusOf(server)).toBe(200);
    process.kill(await server.workerPid(), "SIGKILL");
    const fault = await shownAsDocumented(MODEL_CUT, server);
    await loggedAsDocumented(fault, server);
    expect(server.entries.filter(({ event }) => event === "engine:restart-failed")).toMatchObject([
      { attempts: 1, causes: [{ code: "ERR_FILE_CORRUPT", message: expect.stringContaining("backbone.safetensors") }] },
      { attempts: 2, causes: [{ code: "ERR_FILE_CORRUPT" }] },
    ]);
    const answer = (await (await server.complete()).json()) as { readonly error: { readonly code: string } };
    expect(answer.error.code).toBe("model_failed");
  });

  test("that is put back before the attempts are over heals", async () => {
    const { model, start } = await setUp();
    const server = await start(["--restart-delay-ms", "500"]);
    const file = join(model, "backbone.safetensors");
    await copyFile(file, `${file}.copy`);
    await truncate(file, 1000);
    process.kill(await server.workerPid(), "SIGKILL");
    await server.logged("engine:restart-failed");
    await copyFile(`${file}.copy`, file);
    await server.logged("engine:restarted");
    expect(await statusOf(server)).toBe(200);
  });
});

test.skipIf(!canLimit)(DISK_FULL, async () => {
  const { cacheFolder, start } = await setUp();
  const server = await start([...BUDGET, "--restart-delay-ms", "1000"]);
  expect(await statusOf(server, { read_me: { expert: 0 } })).toBe(200);
  // As if the disk had no room: no file may be longer.
  await limitProcess(server.child.pid as number, "--fsize=4096:");
  await truncate(await decoderFile(cacheFolder), 0);
  for (let left = 3; left > 0; left--) expect(await statusOf(server, { read_me: { expert: 1 } })).toBe(500);
  await shownAsDocumented(DISK_FULL, server);
  expect(await server.logged("engine:restart-failed")).toMatchObject({ causes: [{ code: "ERR_WRITE_FAILED" }] });
  await limitProcess(server.child.pid as number, "--fsize=unlimited:");
  const fault = await shownAsHealed(server, DISK_FULL);
  await loggedAsDocumented(fault, server);
  expect(await statusOf(server, { read_me: { expert: 1 } })).toBe(200);
});

test.skipIf(!canLimit)(NO_DESCRIPTORS, async () => {
  const { start } = await setUp();
  const server = await start(["--restart-delay-ms", "1000"]);
  const pid = server.child.pid as number;
  const open = new Set((await readdir(`/proc/${pid}/fd`)).map(Number));
  // Room for one more: what the probes come in by.
  let limit = 0;
  while (open.has(limit)) limit++;
  await limitProcess(pid, `--nofile=${limit + 1}:`);
  process.kill(await server.workerPid(), "SIGKILL");
  await shownAsDocumented(NO_DESCRIPTORS, server);
  const { causes } = (await server.logged("engine:restart-failed")) as unknown as { causes: { message: string }[] };
  expect(causes[0]?.message).toContain("EMFILE");
  await limitProcess(pid, "--nofile=1024:");
  const fault = await shownAsHealed(server, NO_DESCRIPTORS);
  await loggedAsDocumented(fault, server);
  expect(await statusOf(server)).toBe(200);
});

test(NO_RESTARTS, async () => {
  const { start } = await setUp();
  const server = await start(["--no-restart"]);
  process.kill(await server.workerPid(), "SIGKILL");
  await loggedAsDocumented(await shownAsDocumented(NO_RESTARTS, server), server);
});

test(CLOCK_BACK, async () => {
  const { start } = await setUp();
  const preload = pathToFileURL(join(import.meta.dirname, "..", "support", "programs", "set-clock-back.mjs")).href;
  const server = await start(["--restart-delay-ms", "200"], { NODE_OPTIONS: `--import ${preload}` });
  expect(await statusOf(server)).toBe(200);
  const timeOf = async (requestId: string): Promise<number> => {
    const entry = await server.logged("request:answered", (one) => one["requestId"] === requestId);
    expect(entry["durationMs"]).toBeGreaterThan(0);
    return Date.parse(entry["time"] as string);
  };
  const ask = async (id: string): Promise<void> => {
    const headers = { "content-type": "application/json", "x-request-id": id };
    const body = JSON.stringify({ prompt: "one", max_tokens: 2 });
    expect((await fetch(`${server.url}/v1/completions`, { method: "POST", headers, body })).status).toBe(200);
  };
  await ask("before");
  for (const pid of [server.child.pid as number, await server.workerPid()]) process.kill(pid, "SIGUSR2");
  await ask("after");
  expect(await timeOf("after")).toBeLessThan(await timeOf("before"));
  await shownAsDocumented(CLOCK_BACK, server);
  // Waits, hangs and durations go by another clock.
  process.kill(await server.workerPid(), "SIGKILL");
  await server.logged("engine:restarted");
  await ask("again");
  const scraped = await server.metrics();
  expect(scraped.value("readme_e2e_request_latency_seconds_sum", { model_name: "tiny" })).toBeGreaterThan(0);
  expect(scraped.value("readme_e2e_request_latency_seconds_count", { model_name: "tiny" })).toBe(4);
});

describe("a disk without room from the start", () => {
  test("is said once where weights fit into memory", async () => {
    const { model, cacheFolder } = await setUp();
    const server = await startReady(model, { args: ["--cache-folder", cacheFolder], limits: "-f 8" });
    expect(await statusOf(server)).toBe(200);
    server.child.kill("SIGTERM");
    expect((await server.outcome).stderr).toMatch(
      /^note: the model is not cached: .*weights\.bin: cannot be written \(EFBIG/,
    );
  });

  test("ends the command where experts are read from it", async () => {
    const { cacheFolder, model } = await setUp();
    const flags = [
      "serve",
      model,
      "--port",
      "0",
      "--cache-folder",
      join(cacheFolder, "..", "tiny", "config.json"),
      ...BUDGET,
    ];
    const { code, stderr } = await outcomeOf(startCommand(flags));
    expect([code, stderr.includes("ERR_WRITE_FAILED")]).toEqual([1, true]);
  });
});

/** Waits until all is well again. @returns what the documentation says of the fault */
async function shownAsHealed(server: ServingProcess, name: string): Promise<DocumentedFault> {
  await until(async () => Object.values(await server.probes()).every((status) => status === 200));
  return documentedFault(name);
}
