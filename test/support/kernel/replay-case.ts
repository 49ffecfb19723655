// Cases of random models and sequences, whose rows every build of the kernel has to give bit for bit.

import { availableInstructions, openKernel, type KernelKind, type KvPrecision } from "@readme-moe/kernel";
import { plainRows, type PlainToken } from "../../oracles/plain-kernel.ts";
import { randomInteger, seededRandom } from "../random.ts";
import type { ModelShape } from "./model-shape.ts";
import { packedBytes, setAllAngles } from "./packed-bytes.ts";
import { MAX_POSITIONS, randomModel } from "./random-model.ts";
import { expertsOf, randomSequences, type SequencesShape } from "./random-steps.ts";
import { replay } from "./replay.ts";

export interface ReplayCase {
  readonly model: ModelShape;
  readonly sequences: SequencesShape;
  readonly kvPrecision: KvPrecision;
}

/** Makes the model and the sequences of a case, and the rows that a replay is compared with. */
export function expectedOf({ model, sequences: shape, kvPrecision }: ReplayCase, kernel: KernelKind) {
  const { plain, description } = randomModel(model);
  const sequences = randomSequences(shape, model.vocabSize);
  const options = { kvPrecision, isFused: kernel === "native" };
  const rows = sequences.map(({ tokenIds }) => plainRows(plain, plainTokens(tokenIds, model.numExperts), options));
  const { vocabSize, numLogits = vocabSize, numExperts } = model;
  return { plain, description, sequences, expected: { rows, vocabSize, numLogits, numExperts } };
}

/** Gives each token the expert that replays give it. */
export function plainTokens(tokenIds: readonly number[], numExperts: number): readonly PlainToken[] {
  const experts = expertsOf(tokenIds, numExperts);
  return tokenIds.map((id, index) => ({ id, expert: experts[index] as number }));
}

/** Replays a case in all builds of a kind, each with one to four threads. */
export async function replayInBuilds(one: ReplayCase, kernel: KernelKind, maxRows: number): Promise<void> {
  const { plain, description, sequences, expected } = expectedOf(one, kernel);
  const random = seededRandom(one.model.seed ^ one.sequences.seed);
  const bytes = await packedBytes(description);
  for (const instructions of availableInstructions(kernel)) {
    const { maxPositions = MAX_POSITIONS } = one.model;
    const sizes = { threads: 1 + randomInteger(random, 4), maxRows, maxPositions };
    const opened = openKernel(bytes, sizes, { kernel, instructions });
    try {
      setAllAngles(opened, plain);
      const build = `${instructions}, ${sizes.threads} threads`;
      await replay(
        opened,
        {
          sequences,
          expected: { ...expected, ...sizes, build },
          kvPrecision: one.kvPrecision,
          hasStates: plain.layers.some(({ recurrence }) => recurrence !== undefined),
        },
        random,
        2,
      );
    } finally {
      await opened.close();
    }
  }
}
