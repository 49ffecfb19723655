import * as fc from "../../support/fast-check.ts";
import { describe, expect, it } from "vitest";
import { StopAutomaton, StopMatcher } from "@readme-moe/core";

/** Collects the results of pushing `pieces` until one stops, and of the flush. */
function run(stops: readonly string[] | StopAutomaton, pieces: readonly string[]) {
  const matcher = new StopMatcher(stops);
  const results = pieces.map((piece) => matcher.push(piece));
  results.push(matcher.flush());
  return { texts: results.map(({ text }) => text), stop: results.at(-1)?.stopped?.stop };
}

/** The definition: the stop that begins first, among equals the shortest. */
function plainCut(
  stops: readonly string[],
  text: string,
): { readonly text: string; readonly stop: string | undefined } {
  const found = stops.map((stop) => ({ stop, begin: text.indexOf(stop) })).filter(({ begin }) => begin >= 0);
  found.sort((a, b) => a.begin - b.begin || a.stop.length - b.stop.length);
  return { text: text.slice(0, found[0]?.begin), stop: found[0]?.stop };
}

const word = (maxLength: number): fc.Arbitrary<string> =>
  fc.array(fc.constantFrom("a", "b", "😀", "😁"), { minLength: 1, maxLength }).map((chars) => chars.join(""));
const stopLists = fc.uniqueArray(word(5), { minLength: 1, maxLength: 4 });
const pieceLists = fc.array(word(4), { maxLength: 12 });

function everyCase(numRuns: number, check: (stops: readonly string[], pieces: readonly string[]) => void): void {
  fc.assert(fc.property(stopLists, pieceLists, check), { numRuns, seed: 1 });
}

describe("StopMatcher", () => {
  it("agrees with a search of the whole text, for any pieces", () => {
    everyCase(5000, (stops, pieces) => {
      const { texts, stop } = run(stops, pieces);
      expect({ text: texts.join(""), stop }).toEqual(plainCut(stops, pieces.join("")));
    });
  });

  it("gives the same text for any cut, even within characters, and never half a character", () => {
    everyCase(3000, (stops, pieces) => {
      const text = pieces.join("");
      const { texts, stop } = run(stops, text.split(""));
      expect({ text: texts.join(""), stop }).toEqual(plainCut(stops, text));
      for (const piece of texts) expect(piece).not.toMatch(/\p{Surrogate}/u);
    });
  });

  it("holds back only the possible beginning of a stop string", () => {
    everyCase(3000, (stops, pieces) => {
      const matcher = new StopMatcher(stops);
      let [pushed, given] = ["", ""];
      for (const piece of pieces) {
        pushed += piece;
        const { text, stopped } = matcher.push(piece);
        if (stopped) return;
        given += text;
        const held = pushed.slice(given.length);
        expect(given + held).toBe(pushed);
        expect(held === "" || stops.some((stop) => stop.startsWith(held) || held.includes(stop))).toBe(true);
      }
    });
  });

  it("takes a long text that nearly is a stop string, one character at a time", () => {
    // Copying what is held back at each character would take minutes.
    const half = 500_000;
    const { texts, stop } = run(
      [`${"a".repeat(half)}b`],
      Array.from({ length: 2 * half }, () => "a"),
    );
    expect([stop, texts.length, texts.join("") === "a".repeat(2 * half)]).toStrictEqual([
      undefined,
      2 * half + 1,
      true,
    ]);
  });

  it("returns text at once that cannot be part of a stop string", () => {
    expect(run(["STOP"], ["Hello", " ST", "AR", " STO", "P now", "!"])).toEqual({
      texts: ["Hello", " ", "STAR", " ", "", "", ""],
      stop: "STOP",
    });
  });

  it("returns the held-back text when the text ends", () => {
    expect(run(["STOP"], ["a STO"])).toEqual({ texts: ["a ", "STO"], stop: undefined });
  });

  it("waits for a stop string that began before the one it found", () => {
    expect(run(["abcd", "bc"], ["abc", "d"])).toEqual({ texts: ["", "", ""], stop: "abcd" });
    expect(run(["abcd", "bc"], ["abc", "x"])).toEqual({ texts: ["", "a", ""], stop: "bc" });
    expect(run(["abcd", "bc"], ["abc"])).toEqual({ texts: ["", "a"], stop: "bc" });
  });

  it("finds the shorter of two stop strings that begin together", () => {
    expect(run(["abc", "ab"], ["xab", "c"])).toEqual({ texts: ["x", "", ""], stop: "ab" });
  });

  it("returns all text but half a character if there are no stop strings", () => {
    expect(run([], ["a\ud83d", "\ude00"])).toEqual({ texts: ["a", "😀", ""], stop: undefined });
    expect(run([], ["a\ud83d"])).toEqual({ texts: ["a", "\ud83d"], stop: undefined });
  });

  it("can share an automaton with other matchers", () => {
    const automaton = new StopAutomaton(["ab"]);
    const [one, other] = [new StopMatcher(automaton), new StopMatcher(automaton)];
    expect(one.push("a").text + other.push("b").text).toBe("b");
    expect(one.push("b")).toEqual({ text: "", stopped: { stop: "ab" } });
  });

  it("starts over after a flush", () => {
    const matcher = new StopMatcher(["ab"]);
    matcher.push("a");
    expect([matcher.flush(), matcher.push("b")]).toEqual([{ text: "a" }, { text: "b" }]);
  });
});
