import * as fc from "../support/fast-check.ts";
import { expect, test } from "vitest";
import { Matchers, type TokenMatcher } from "../../packages/grammar/src/matching/matchers.ts";

/** Allows tokens that are no less than the one before. */
class Rising implements TokenMatcher {
  readonly tokens: number[] = [];
  isDisposed = false;

  acceptToken(id: number): boolean {
    if (id < (this.tokens.at(-1) ?? 0)) return false;
    this.tokens.push(id);
    return true;
  }

  rollBack(numTokens: number): void {
    if (numTokens > this.tokens.length) throw new RangeError("Nothing left to take back");
    this.tokens.length -= numTokens;
  }

  dispose(): void {
    this.isDisposed = true;
  }
}

test("brings a matcher to exactly the tokens of the question, whatever was asked before", async () => {
  const question = fc.record({
    matcher: fc.constantFrom("a", "b", "c", "d"),
    tokenIds: fc.array(fc.nat(3), { maxLength: 6 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(question, { maxLength: 40, size: "max" }), async (questions) => {
      const opened: Rising[] = [];
      const book = new Matchers(async () => {
        const matcher = new Rising();
        opened.push(matcher);
        return matcher;
      }, 2);
      for (const { matcher, tokenIds } of questions) {
        const isRising = tokenIds.every((id, index) => id >= (tokenIds[index - 1] ?? 0));
        const found = await book.at({ matcher, tokenIds: Int32Array.from(tokenIds) });
        expect(found?.tokens).toEqual(isRising ? tokenIds : undefined);
        expect(found?.isDisposed ?? false).toBe(false);
        expect(opened.filter((one) => !one.isDisposed).length).toBeLessThanOrEqual(2);
      }
    }),
    { seed: 3 },
  );
});
