// Sequences through a runner in steps of random parts, whose logits depend on none of that.

import type { StepRunner } from "@readme-moe/engine";
import { randomInteger } from "./random.ts";

interface TokenSequence {
  readonly ids: readonly number[];
  /** Expert of each token. @default 0 */
  readonly experts?: readonly number[];
}

/** Runs sequences in random chunks, several in each step and in any order. @returns all their logits */
export async function inRandomSteps(
  runner: StepRunner,
  sequences: readonly TokenSequence[],
  random: () => number,
): Promise<readonly (readonly Float32Array[])[]> {
  const kv = runner.openKv({ capacityTokens: 64 * sequences.length });
  const { vocabSize } = runner.model.config;
  const rows = sequences.map((): Float32Array[] => []);
  const slots = sequences.map(({ ids }) => kv.admit(ids.length));
  while (sequences.some(({ ids }, index) => rows[index]!.length < ids.length)) {
    const members = sequences.flatMap(({ ids, experts = ids.map(() => 0) }, index) => {
      const from = rows[index]!.length;
      const to = from + randomInteger(random, 9);
      const part = { tokenIds: ids.slice(from, to), experts: experts.slice(from, to) };
      return part.tokenIds.length > 0 ? [{ index, ...part, slot: slots[index]!, order: random() }] : [];
    });
    members.sort((a, b) => a.order - b.order);
    // oxlint-disable-next-line no-await-in-loop -- one step after the other
    const results = await runner.forward(
      kv,
      members.map(({ slot, tokenIds, experts }) => ({
        slot,
        tokenIds,
        experts,
        logitsOf: tokenIds.map((_, place) => place),
        wantsFullLogits: true,
      })),
    );
    for (const [place, { index, tokenIds }] of members.entries()) {
      const { fullLogits } = results[place]!;
      for (const row of tokenIds.keys()) rows[index]!.push(fullLogits.slice(row * vocabSize, (row + 1) * vocabSize));
    }
  }
  kv.dispose();
  return rows;
}
