// `serve --batches`: a batch goes on after its server was killed.

import { join } from "node:path";
import { readFile } from "node:fs/promises";
import OpenAI, { toFile } from "openai";
import { expect, test } from "vitest";
import { batchFile, ended, linesOf } from "../support/batches.ts";
import { POCKET } from "../support/pocket.ts";
import { startReady, until, type ServingProcess } from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const NUM_LINES = 60;
const bodies = Array.from({ length: NUM_LINES }, (_, index) => ({
  prompt: `Number ${index}`,
  max_tokens: 60,
  temperature: 1,
  seed: index,
  ignore_eos: true,
}));

const sdk = ({ url }: ServingProcess): OpenAI => new OpenAI({ apiKey: "-", baseURL: `${url}/v1`, maxRetries: 0 });

test("a killed server's batch goes on: no line is lost, none is answered twice, and requests go first", async () => {
  const folder = await temporaryFolder();
  const start = (): Promise<ServingProcess> => startReady(POCKET, { args: ["--batches", folder] });
  const first = await start();
  const client = sdk(first);
  const file = await toFile(Buffer.from(batchFile({ bodies })), "in.jsonl");
  const input = await client.files.create({ file, purpose: "batch" });
  const asked = { input_file_id: input.id, endpoint: "/v1/completions", completion_window: "24h" } as const;
  const { id } = await client.batches.create(asked);
  const answers = join(folder, "batches", id, "answers-1");
  expect((await first.complete()).status).toBe(200);
  const before = await until(async () => {
    const text = await readFile(answers, "utf8").catch(() => "");
    const count = text.split("\n").length - 1;
    return count >= 5 && count;
  });
  first.child.kill("SIGKILL");
  expect(before).toBeLessThan(NUM_LINES);
  await first.outcome;
  const kept = linesOf((await readFile(answers, "utf8")).replaceAll(/^\d+ [oe] /gm, ""));

  const second = await start();
  const batch = await ended(sdk(second), id);
  expect(batch).toMatchObject({ status: "completed", request_counts: { total: NUM_LINES, completed: NUM_LINES } });
  const output = linesOf(await (await sdk(second).files.content(batch.output_file_id ?? "")).text());
  expect(output.map((line) => line.custom_id)).toEqual(bodies.map((_, index) => `request-${index}`));
  // Lines that were answered before the kill are those answers, and have not run again.
  for (const line of kept) expect(output).toContainEqual(line);
  const alone = await second.complete(bodies[NUM_LINES - 1]);
  const { choices } = (await alone.json()) as { choices: unknown };
  expect(output.at(-1)?.response?.body).toMatchObject({ choices });
});
