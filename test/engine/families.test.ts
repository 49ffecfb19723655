// Every family against PyTorch's numbers: test/fixtures/families, made with transformers in float32.

import { describe, expect, test } from "vitest";
import { greedyTokens } from "../support/greedy.ts";
import { fixture, fixtureNames, golden } from "../support/fixtures.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";

interface Golden {
  readonly cases: readonly {
    readonly input_ids: readonly number[];
    readonly last_logits: readonly number[];
    readonly greedy_16: readonly number[];
  }[];
}

describe.each(fixtureNames("families"))("%s", (name) => {
  test("gives PyTorch's logits and greedy tokens", async () => {
    await using running = await runningModel(fixture(name));
    const { cases } = golden(name) as Golden;
    expect(cases.map((one) => one.input_ids.length)).toEqual([1, 7, 40, 130]);
    for (const { input_ids: ids, last_logits: logits, greedy_16: greedy } of cases) {
      const { fullLogits } = await promptLogits(running, ids);
      expect(largestDifference(fullLogits, logits)).toBeLessThan(1e-3);
      const tokens = await greedyTokens(running, ids, 16);
      expect(tokens).toEqual(greedy);
    }
  });
});
