import { KernelRunner } from "@readme-moe/engine";
import { wholeBlocks } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";

export interface GivenAnswer {
  readonly instruction: string;
  readonly promptIds: readonly number[];
  /** Tokens of the answer, including the end token if it was reached. */
  readonly tokenIds: readonly number[];
  readonly text: string;
}

export interface ForcedScores {
  /** Share of the answers' tokens that the model also ranks first, in [0, 1]. */
  readonly agreement: number;
  /** Mean loss of the answers' tokens, in nats per token. */
  readonly loss: number;
}

/** Scores given answers with a model, token by token after their prompts; its own router chooses experts. */
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
    if (!slot || !routed) throw new Error("Expected one sequence and its route, got none");
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
