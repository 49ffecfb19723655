// Batches on two fronts of a fleet that share a folder and a queue.

import { openPromptReader } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import { FleetEngine, FleetWorker, openBatchQueue } from "@readme-moe/fleet";
import express from "express";
import OpenAI, { toFile } from "openai";
import { describe, expect, onTestFinished, test } from "vitest";
import { batchFile, ended, linesOf } from "../support/batches.ts";
import { noServer, startValkey } from "../support/fleet/valkey.ts";
import { openPocket } from "../support/pocket-engine.ts";
import { POCKET } from "../support/pocket.ts";
import { listen } from "../support/served-model.ts";
import { startReady, until } from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The test of batches on a fleet did not run: ${noServer}`);

const bodies = Array.from({ length: 40 }, (_, index) => ({
  prompt: `Number ${index}`,
  max_tokens: 40,
  seed: index,
  ignore_eos: true,
}));

/** Starts a fleet with one worker. */
async function startFleet(): Promise<{
  readonly url: string;
  readonly worker: FleetWorker;
  readonly cacheFolder: string;
}> {
  const cacheFolder = await temporaryFolder();
  const { url, stop } = await startValkey();
  onTestFinished(stop);
  const local = await openPocket(cacheFolder);
  const worker = FleetWorker.open({ fleet: url, engine: local });
  onTestFinished(async () => {
    await worker.close();
    await local.dispose();
  });
  return { url, worker, cacheFolder };
}

const sdk = (url: string): OpenAI => new OpenAI({ apiKey: "-", baseURL: `${url}/v1`, maxRetries: 0 });

async function openFront(
  { url: fleet, cacheFolder }: { readonly url: string; readonly cacheFolder: string },
  folder: string,
): Promise<{ readonly models: ServedModels; readonly client: OpenAI }> {
  const engine = await FleetEngine.open({ fleet, reader: await openPromptReader(POCKET, { cacheFolder }) });
  const models = new ServedModels({ pocket: engine });
  const front = await listen(express().use(readMe({ models, batches: { folder, queue: openBatchQueue({ fleet }) } })));
  onTestFinished(async () => {
    await models.drain({ deadlineMs: 0 });
    await front[Symbol.asyncDispose]();
  });
  return { models, client: sdk(front.url) };
}

/** Begins a batch, and waits until the worker runs some of its lines. @returns its id */
async function begin(client: OpenAI, worker: FleetWorker): Promise<string> {
  const file = await toFile(Buffer.from(batchFile({ bodies })), "in.jsonl");
  const { id: input_file_id } = await client.files.create({ file, purpose: "batch" });
  const asked = { input_file_id, endpoint: "/v1/completions", completion_window: "24h" } as const;
  const { id } = await client.batches.create(asked);
  await until(async () => {
    await client.batches.retrieve(id);
    return worker.numRunning > 0;
  });
  return id;
}

/** Waits for the end of a batch: every line has its answer once, and is what a request alone gets. */
async function expectWhole(client: OpenAI, id: string): Promise<void> {
  const batch = await ended(client, id);
  expect(batch).toMatchObject({ status: "completed", request_counts: { total: 40, completed: 40, failed: 0 } });
  const output = linesOf(await (await client.files.content(batch.output_file_id ?? "")).text());
  expect(output.map((line) => line.custom_id)).toEqual(bodies.map((_, index) => `request-${index}`));
  const alone = await client.completions.create({ model: "pocket", ...bodies[39], prompt: "Number 39" });
  expect(output[39]?.response?.body).toMatchObject({ choices: alone.choices });
}

describe.skipIf(noServer !== undefined)("a fleet (skipped without Valkey)", () => {
  test("goes on with a batch at another front when the first one ends", async () => {
    const [fleet, folder] = [await startFleet(), await temporaryFolder()];
    const [first, second] = [await openFront(fleet, folder), await openFront(fleet, folder)];
    const id = await begin(first.client, fleet.worker);
    await first.models.drain({ deadlineMs: 1000 });
    await expectWhole(second.client, id);
  });

  test("goes on with a batch at another front when the first one is killed", async () => {
    const [fleet, folder] = [await startFleet(), await temporaryFolder()];
    const first = await startReady(POCKET, { args: ["--fleet", fleet.url, "--batches", folder, "--name", "pocket"] });
    const id = await begin(sdk(first.url), fleet.worker);
    first.child.kill("SIGKILL");
    await first.outcome;
    const second = await openFront(fleet, folder);
    await expectWhole(second.client, id);
  });
});
