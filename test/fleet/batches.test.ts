// Batches on two fronts of a fleet that share a folder.

import { openPromptReader, type ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import { FleetEngine, FleetWorker } from "@readme-moe/fleet";
import express from "express";
import OpenAI, { toFile } from "openai";
import { describe, expect, onTestFinished, test } from "vitest";
import { batchFile, ended, linesOf } from "../support/batches.ts";
import { noServer, startValkey } from "../support/fleet/valkey.ts";
import { openPocket } from "../support/pocket-engine.ts";
import { POCKET } from "../support/pocket.ts";
import { listen } from "../support/served-model.ts";
import { until } from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The test of batches on a fleet did not run: ${noServer}`);

const bodies = Array.from({ length: 40 }, (_, index) => ({
  prompt: `Number ${index}`,
  max_tokens: 40,
  seed: index,
  ignore_eos: true,
}));

describe.skipIf(noServer !== undefined)("a fleet (skipped without Valkey)", () => {
  test("goes on with a batch at another front when the first one ends", async () => {
    const [cacheFolder, folder] = [await temporaryFolder(), await temporaryFolder()];
    const server = await startValkey();
    onTestFinished(server.stop);
    const local: ReadMeEngine = await openPocket(cacheFolder);
    const worker = FleetWorker.open({ fleet: server.url, engine: local });
    onTestFinished(async () => {
      await worker.close();
      await local.dispose();
    });
    const openFront = async (): Promise<{ readonly models: ServedModels; readonly client: OpenAI }> => {
      const engine = await FleetEngine.open({
        fleet: server.url,
        reader: await openPromptReader(POCKET, { cacheFolder }),
      });
      const models = new ServedModels({ pocket: engine });
      const front = await listen(express().use(readMe({ models, keys: { ann: "a" }, batches: { folder } })));
      onTestFinished(async () => {
        await models.drain({ deadlineMs: 0 });
        await front[Symbol.asyncDispose]();
      });
      return { models, client: new OpenAI({ apiKey: "a", baseURL: `${front.url}/v1`, maxRetries: 0 }) };
    };
    const [first, second] = [await openFront(), await openFront()];
    const file = await toFile(Buffer.from(batchFile({ bodies })), "in.jsonl");
    const { id: input_file_id } = await first.client.files.create({ file, purpose: "batch" });
    const asked = { input_file_id, endpoint: "/v1/completions", completion_window: "24h" } as const;
    const { id } = await first.client.batches.create(asked);
    await until(async () => {
      await server.redis.ping();
      return worker.numRunning > 0;
    });
    await first.models.drain({ deadlineMs: 1000 });
    const batch = await ended(second.client, id);
    expect(batch).toMatchObject({ status: "completed", request_counts: { total: 40, completed: 40, failed: 0 } });
    const output = linesOf(await (await second.client.files.content(batch.output_file_id ?? "")).text());
    expect(output.map((line) => line.custom_id)).toEqual(bodies.map((_, index) => `request-${index}`));
    const alone = await second.client.completions.create({ model: "pocket", ...bodies[39], prompt: "Number 39" });
    expect(output[39]?.response?.body).toMatchObject({ choices: alone.choices });
  });
});
