// Loads of the server benchmarks.

import express from "express";
import { expect, test } from "vitest";
import { closedLoop, completions } from "../../bench/express/load.ts";
import { listen } from "../support/served-model.ts";

test("no two loads send the same prompt", async () => {
  const prompts: string[] = [];
  await using server = await listen(
    express()
      .use(express.json())
      .use((request, response) => {
        prompts.push((request.body as { prompt: string }).prompt);
        response.json({ choices: [{ text: "", finish_reason: "stop" }] });
      }),
  );
  for (let load = 0; load < 2; load++) await closedLoop(3, completions(server.url, 4, false), (asked) => asked >= 9);
  expect(prompts).toHaveLength(18);
  expect(new Set(prompts).size).toBe(18);
});
