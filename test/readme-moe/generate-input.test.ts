// `readme-moe generate`: where its prompt comes from, and its precision.

import { expect, test } from "vitest";
import { samplingParams } from "../../packages/readme-moe/src/options.ts";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";

test("takes its prompt from a pipe, without the line break at its end", async () => {
  const args = ["generate", POCKET, "--max-new-tokens", "6", "--json"];
  const piped = await runCli(args, "The ship was\n");
  expect(piped).toEqual(await runCli([...args, "--prompt", "The ship was"]));
  expect(piped).toMatchObject({ code: 0, stderr: "" });
});

test("a chat samples by measured defaults, unless the call or the model's files say otherwise", () => {
  const own = { temperature: 0.3, minP: 0.05, repetitionPenalty: 1.1, maxTokens: 1024 };
  expect(samplingParams({}, "chat", undefined)).toMatchObject(own);
  expect(samplingParams({ minP: 0, temperature: 1 }, "chat", {})).toMatchObject({ ...own, minP: 0, temperature: 1 });
  const recommended = samplingParams({}, "chat", { temperature: 0.6, topP: 0.95 });
  expect(recommended).toMatchObject({ temperature: 0.6, topP: 0.95, maxTokens: 1024 });
  expect([recommended.minP, recommended.repetitionPenalty]).toEqual([undefined, undefined]);
  expect(samplingParams({}, "generate", undefined)).toMatchObject({ temperature: 0, maxTokens: 128 });
});

test("computes in int8 unless another precision is wanted", async () => {
  const args = ["generate", POCKET, "--prompt", "The ship was", "--max-new-tokens", "32", "--json"];
  const outcomes = await Promise.all(
    [[], ["--precision", "int8"], ["--precision", "fp32"]].map((more) => runCli([...args, ...more])),
  );
  expect(outcomes[0]).toEqual(outcomes[1]);
  expect(outcomes[0]?.stdout).not.toBe(outcomes[2]?.stdout);
});
