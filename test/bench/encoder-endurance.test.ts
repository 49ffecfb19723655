// Endurance of encoders over HTTP, a small part of `npm run bench:encoders -- --endurance 100000`.

import { readMe } from "@readme-moe/express";
import express from "express";
import { expect, test } from "vitest";
import { embedFromMany, randomTexts, vectorsAlone } from "../../bench/encoders/endurance.ts";
import { writeEmbedder } from "../support/encoder-models.ts";
import { openPooling } from "../support/pooling-models.ts";
import { seededRandom } from "../support/random.ts";
import { listen } from "../support/served-model.ts";

test("500 texts of 50 clients have the bits that they have alone, and a wrong or missing one is noticed", async () => {
  const random = seededRandom(3);
  const engine = await openPooling(await writeEmbedder("bert"), { precision: "int8", threads: 2 });
  try {
    await using server = await listen(express().use(readMe({ engine })));
    const alone = await vectorsAlone(engine, randomTexts(random, 60));
    const counts = await embedFromMany({ url: server.url, numTexts: 500, numClients: 50, alone, random });
    expect(counts).toEqual({ answered: 500, lost: 0, wrong: 0 });
    await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
    const few = { url: server.url, numTexts: 20, numClients: 2, random };
    const [[text, vector] = ["", ""], [other] = [""]] = [...alone];
    const swapped = await embedFromMany({ ...few, alone: new Map([[other, vector]]) });
    expect(swapped).toEqual({ answered: 20, lost: 0, wrong: 20 });
    const unknown = await embedFromMany({ ...few, url: `${server.url}/none`, alone: new Map([[text, vector]]) });
    expect(unknown).toEqual({ answered: 20, lost: 20, wrong: 0 });
  } finally {
    await engine.dispose();
  }
});
