import { KernelRunner } from "@readme-moe/engine";
import { wholeBlocks } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";

export interface GivenAnswer {
  readonly instruction: string;
  readonly promptIds: readonly number[];
  /** Of the answer, its end included where it came to one. */
  readonly tokenIds: readonly number[];
  readonly text: string;
}

export interface ForcedScores {
  /** Share of the answers' tokens that the model finds likeliest after those before them, in [0, 1]. */
  readonly agreement: number;
  /** Of the answers' tokens, nats by token. */
  readonly loss: number;
}

/** What a model says of answers that it is led through token by token, after their prompts; its own router chooses experts. */
export async function forcedScores(
  path: string,
  precision: "fp32" | "int8" | "int4",
  answers: readonly GivenAnswer[],
): Promise<ForcedScores> {
  const model = await openModel(path);
  const router = await openRouter(model);
  const runner = await KernelRunner.open(model, { precision });
  let [numTokens, numSame, nats] = [0, 0, 0];
  for (const { promptIds, tokenIds } of answers) {
    const ids = Int32Array.from([...promptIds, ...tokenIds]).subarray(0, -1);
    const state = router.start();
    const [routed] = await router.route([{ state, tokenIds: ids }]);
    router.release(state);
    const kv = runner.openKv({ capacityTokens: wholeBlocks(ids.length) });
    const slot = kv.admit(ids.length);
    if (!slot || !routed) throw new Error("Expected room for one sequence, and its route");
    const logitsOf = tokenIds.map((_, index) => promptIds.length - 1 + index);
    const targets = Int32Array.from(tokenIds);
    const [logits] = await runner.forward(kv, [{ slot, tokenIds: ids, experts: routed.experts, logitsOf, targets }]);
    tokenIds.forEach((id, index) => {
      numTokens++;
      if (logits?.candidateIds[index] === id) numSame++;
      nats -= logits?.targetLogProbs[index] ?? Number.NaN;
    });
  }
  await runner.dispose();
  await router.dispose();
  await model.close();
  return { agreement: numSame / numTokens, loss: nats / numTokens };
}
