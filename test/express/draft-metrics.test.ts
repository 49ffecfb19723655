// Metrics of drafts by source, of a real engine that tells what a test says about its drafts.

import { readMe, ServedModels } from "@readme-moe/express";
import express from "express";
import { expect, test } from "vitest";
import { scrape } from "../support/prometheus.ts";
import { listen, openTinyEngine } from "../support/served-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MODEL = { model_name: "tiny" };

test("drafts are counted by source, as the engine counts them", async () => {
  let draftsBySource: Record<string, { readonly draftedTokens: number; readonly acceptedDraftTokens: number }> = {
    prediction: { draftedTokens: 9, acceptedDraftTokens: 7 },
    context: { draftedTokens: 4, acceptedDraftTokens: 0 },
  };
  await using engine = await openTinyEngine(await temporaryFolder());
  const drafting = new Proxy(engine, {
    get(target, name) {
      if (name === "stats") return async () => ({ ...(await target.stats()), draftedTokens: 13, draftsBySource });
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const models = new ServedModels({ tiny: drafting });
  await using server = await listen(express().use(readMe({ models })));
  const metrics = await scrape(server.url);
  expect(metrics.value("readme_spec_decode_num_draft_tokens_total", MODEL)).toBe(13);
  for (const [source, counts] of Object.entries(draftsBySource)) {
    const labels = { ...MODEL, source };
    expect(metrics.value("readme_draft_tokens_total", labels)).toBe(counts.draftedTokens);
    expect(metrics.value("readme_draft_tokens_accepted_total", labels)).toBe(counts.acceptedDraftTokens);
  }
  expect(metrics.value("readme_draft_tokens_total", { ...MODEL, source: "model" })).toBeUndefined();
  // An engine that was opened again has drafted nothing.
  draftsBySource = {};
  expect((await scrape(server.url)).samples.filter(({ name }) => name.startsWith("readme_draft_tokens"))).toEqual([]);
});
