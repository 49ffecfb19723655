// The embedded model against PyTorch's numbers: test/fixtures/pocket.

import { join } from "node:path";
import { evaluate } from "@readme-moe/engine/evaluation";
import { expect, test } from "vitest";
import { greedyTokens } from "../support/greedy.ts";
import { evaluationDocuments } from "../support/evaluation-documents.ts";
import { golden } from "../support/fixtures.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";

interface Golden {
  readonly domains: Readonly<Record<string, { readonly loss: number }>>;
  readonly mean_loss: number;
  readonly cases: readonly {
    readonly text: string;
    readonly input_ids: readonly number[];
    readonly top10: readonly (readonly [id: number, logit: number])[];
    readonly greedy_32: readonly number[];
    readonly smallest_gap: number;
  }[];
}

const pocket = join(import.meta.dirname, "..", "..", "models", "pocket");

test("the pocket model gives PyTorch's ids, logits and greedy tokens", async () => {
  await using running = await runningModel(pocket);
  const { tokenizer } = await running.model.loadText();
  for (const expected of (golden("pocket") as Golden).cases) {
    const ids = Array.from(tokenizer.encode(expected.text));
    expect(ids).toEqual(expected.input_ids);
    const { fullLogits } = await promptLogits(running, ids);
    for (const [id, logit] of expected.top10) expect(Math.abs((fullLogits[id] as number) - logit)).toBeLessThan(1e-3);
    if (expected.smallest_gap <= 0.002) continue;
    const tokens = await greedyTokens(running, ids, 32);
    expect(tokens).toEqual(expected.greedy_32);
  }
});

test("the pocket model has PyTorch's loss on unseen documents of every domain", async ({ skip }) => {
  const { domains, mean_loss: meanLoss } = golden("pocket") as Golden;
  await using running = await runningModel(pocket);
  const { tokenizer } = await running.model.loadText();
  const losses: number[] = [];
  for (const [domain, expected] of Object.entries(domains)) {
    const documents = evaluationDocuments(domain);
    if (documents === undefined) skip("shared/data is not beside the repository");
    const { loss } = await evaluate(running, tokenizer, documents ?? []);
    expect(Math.abs(loss - expected.loss)).toBeLessThan(0.002);
    losses.push(loss);
  }
  expect(Math.abs(losses.reduce((sum, loss) => sum + loss, 0) / losses.length - meanLoss)).toBeLessThan(0.002);
});
