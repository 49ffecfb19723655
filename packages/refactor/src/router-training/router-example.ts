/** A text that a router learns from. */
export interface RouterExample {
  readonly tokenIds: Int32Array;
  /** `[tokens, numExperts]`, lower is better: what each expert would get wrong of each token. */
  readonly costs: Float32Array;
  /** How much each of its tokens counts. @default 1 */
  readonly weight?: number | undefined;
}

/** @throws {TypeError | RangeError} naming `name` and the example, when it does not fit numbers of experts and tokens */
export function checkExamples(
  name: string,
  examples: readonly RouterExample[],
  { numExperts, vocabSize }: { readonly numExperts: number; readonly vocabSize: number },
): void {
  if (examples.length === 0) throw new RangeError(`Expected \`${name}\` to hold at least one example, got none`);
  examples.forEach(({ tokenIds, costs, weight = 1 }, index) => {
    const where = `${name}[${index}]`;
    if (tokenIds.length === 0) throw new RangeError(`Expected \`${where}.tokenIds\` to hold a token, got none`);
    if (costs.length !== tokenIds.length * numExperts) {
      const expected = `${tokenIds.length} x ${numExperts} values`;
      throw new RangeError(`Expected \`${where}.costs\` to have ${expected}, got ${costs.length}`);
    }
    if (!(weight >= 0 && weight < Infinity)) {
      throw new RangeError(`Expected \`${where}.weight\` to be a number from 0, got ${weight}`);
    }
    const badId = tokenIds.find((id) => id < 0 || id >= vocabSize);
    if (badId !== undefined) {
      throw new RangeError(`Expected \`${where}.tokenIds\` to be below ${vocabSize}, got ${badId}`);
    }
    const badCost = costs.find((cost) => !Number.isFinite(cost));
    if (badCost !== undefined) throw new RangeError(`Expected \`${where}.costs\` to be finite, got ${badCost}`);
  });
}
