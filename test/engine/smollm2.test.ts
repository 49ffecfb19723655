// A real model against PyTorch's numbers: test/fixtures/smollm2-135m-instruct. The weights are not in the repository.

import { evaluate } from "@readme-moe/engine/evaluation";
import { applyChatTemplate, type Precision } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { greedyTokens } from "../support/greedy.ts";
import { evaluationDocuments } from "../support/evaluation-documents.ts";
import { golden } from "../support/fixtures.ts";
import { writeRescaledModel } from "../support/rescaled-model.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { promptLogits, runningModel, type RunningModel } from "../support/running-model.ts";
import { sharedModel } from "../support/shared.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

interface Golden {
  readonly domains: Readonly<Record<string, { readonly loss: number; readonly tokens: number }>>;
  readonly mean_loss: number;
  readonly cases: readonly {
    readonly kind: "text" | "chat";
    readonly text: string;
    readonly input_ids: readonly number[];
    readonly top20: readonly (readonly [id: number, logit: number])[];
    readonly logsumexp: number;
    readonly greedy_48: readonly number[];
    readonly smallest_gap: number;
  }[];
}

const path = sharedModel("smollm2-135m-instruct");
const expected = golden("smollm2-135m-instruct") as Golden;

describe.skipIf(path === undefined)("SmolLM2 (skipped where shared/models is absent)", () => {
  let running: RunningModel;
  beforeAll(async () => {
    running = await runningModel(path as string);
  });
  afterAll(() => running[Symbol.asyncDispose]());

  test.each(expected.cases)("$kind: $text", async (one) => {
    const { tokenizer, chatTemplate } = await running.model.loadText();
    const ids = tokenizer.encode(one.text, { addSpecialTokens: false });
    expect(Array.from(ids)).toEqual(one.input_ids);
    if (one.kind === "chat") {
      const content = /<\|im_start\|>user\n(.*?)<\|im_end\|>/s.exec(one.text)?.[1] ?? "";
      expect(applyChatTemplate(tokenizer, chatTemplate, [{ role: "user", content }])).toEqual(ids);
    }
    const { fullLogits, logSumExp, candidateIds } = await promptLogits(running, one.input_ids);
    for (const [id, logit] of one.top20) expect(Math.abs((fullLogits[id] as number) - logit)).toBeLessThan(2e-2);
    expect(Math.abs((logSumExp[0] as number) - one.logsumexp)).toBeLessThan(2e-2);
    expect(candidateIds[0]).toBe(one.top20[0]?.[0]);
    if (one.smallest_gap <= 0.01) return;
    expect(await greedyTokens(running, ids, one.greedy_48.length)).toEqual(one.greedy_48);
  });

  // All seven take two minutes.
  const all = Object.keys(expected.domains);
  const domains = RUNS_LONG_TESTS ? all : ["github"];

  test("has PyTorch's loss on unseen documents", { timeout: 600_000 }, async ({ skip }) => {
    const { tokenizer } = await running.model.loadText();
    const losses: number[] = [];
    for (const domain of domains) {
      const { loss, tokens } = expected.domains[domain] as Golden["domains"][string];
      const documents = evaluationDocuments(domain);
      if (documents === undefined) skip("shared/data is not beside the repository");
      const result = await evaluate(running, tokenizer, documents ?? []);
      expect(result.tokens).toBe(tokens);
      expect(Math.abs(result.loss - loss), domain).toBeLessThan(0.002);
      losses.push(result.loss);
    }
    if (domains !== all) return;
    const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    expect(Math.abs(mean - expected.mean_loss)).toBeLessThan(0.002);
  });
});

describe.skipIf(path === undefined)("SmolLM2 in fewer bits (skipped where shared/models is absent)", () => {
  test.each(["file", "int8", "int4"] as const)("answers in %s", async (precision) => {
    await using running = await runningModel(path as string, undefined, precision);
    const { tokenizer, chatTemplate } = await running.model.loadText();
    const messages = [{ role: "user", content: "What is the capital of France?" }] as const;
    const ids = applyChatTemplate(tokenizer, chatTemplate, messages);
    // The answer's first token is 0.08 nats ahead of the second in float32, which 8-bit inputs turn around.
    const asked = [...ids, ...tokenizer.encode("The capital of France is", { addSpecialTokens: false })];
    expect(tokenizer.decode(await greedyTokens(running, asked, 2))).toBe(" Paris.");
  });

  // All documents take minutes: `npm run readme-moe -- eval` does that. A few sequences tell as much.
  test.each([
    ["file", 0.02],
    ["int8", 0.02],
    ["int4", 0.02],
  ] as const)("loses in %s at most %f nats", { timeout: 600_000 }, async (precision, most) => {
    expect(await lossAboveFloats(path as string, precision)).toBeLessThan(most);
  });

  test.runIf(RUNS_LONG_TESTS)(
    "loses at most 0.1 nats when its 4 bits are made here (skipped outside test:long)",
    { timeout: 600_000 },
    async () => {
      const folder = await temporaryFolder();
      await writeRescaledModel(path as string, folder);
      expect(await lossAboveFloats(folder, "int4")).toBeLessThan(0.1);
    },
  );
});

/** Losses in float32 by model. */
const floatLosses = new Map<string, number>();

async function lossAboveFloats(model: string, precision: Precision): Promise<number> {
  const floats = floatLosses.get(model) ?? (await lossOnSamples(model, "fp32"));
  floatLosses.set(model, floats);
  return (await lossOnSamples(model, precision)) - floats;
}

/** Mean loss over sequences of two kinds of text. */
async function lossOnSamples(model: string, precision: Precision): Promise<number> {
  await using running = await runningModel(model, undefined, precision);
  const { tokenizer } = await running.model.loadText();
  const domains = ["book", "github"];
  let sum = 0;
  for (const domain of domains) {
    const documents = evaluationDocuments(domain) ?? ["Once upon a time. ".repeat(300)];
    sum += (await evaluate(running, tokenizer, documents, { maxSequences: RUNS_LONG_TESTS ? 2 : 1 })).loss;
  }
  return sum / domains.length;
}
