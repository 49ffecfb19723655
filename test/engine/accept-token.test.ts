// Tokens that join their sequence: the text that is shown, and the reason why a sequence ends.

import { resolveSamplingParams, StopAutomaton, type SamplingParams } from "@readme-moe/core";
import { openModel, type Tokenizer } from "@readme-moe/model";
import { fixedRouter } from "@readme-moe/router";
import { beforeAll, describe, expect, test } from "vitest";
import { acceptToken } from "../../packages/engine/src/sampler.ts";
import { Sequence } from "../../packages/engine/src/sequence.ts";
import { POCKET } from "../support/pocket.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const EOS = 0;
const TEXT =
  "The old captain said: “Ahoy!” — then 🙂🙂 the ship, the shipment and the shipping of ships were all lost at sea.";

let tokenizer: Tokenizer;
let ids: readonly number[];
beforeAll(async () => {
  const model = await openModel(POCKET);
  ({ tokenizer } = await model.loadText());
  await model.close();
  ids = Array.from(tokenizer.encode(TEXT, { addSpecialTokens: false }));
});

function sequenceOf(params: SamplingParams, promptTokens = 2): Sequence {
  const resolved = resolveSamplingParams(params, { vocabSize: 4096, eosTokenIds: [EOS] });
  const promptIds = Array<number>(promptTokens).fill(9);
  const about = { id: "a", requestId: "a", choice: 3, arrival: 0, arrivalMs: 0, priority: 0, seed: 1 };
  const rest = { promptIds, params: resolved, processesLogits: false, stops: new StopAutomaton(resolved.stop) };
  return new Sequence({ ...about, ...rest }, tokenizer, fixedRouter(1, 0));
}

interface Shown {
  readonly text: string;
  readonly numTokens: number;
  readonly finishReason: string | undefined;
  readonly stop: string | undefined;
}

/** Accepts tokens until the sequence ends. */
function accept(tokens: readonly number[], params: SamplingParams, contextTokens = 1000): Shown {
  const sequence = sequenceOf(params);
  let text = "";
  for (const [index, id] of tokens.entries()) {
    const chunk = acceptToken({ sequence, token: { id } }, { eosTokenIds: [EOS], contextTokens });
    expect(chunk).toMatchObject({ choice: 3, tokens: [{ id }] });
    expect(chunk.finishReason).toBe(sequence.finishReason);
    expect(sequence.tokenIds.slice(2)).toEqual(tokens.slice(0, index + 1));
    text += chunk.text;
    if (chunk.finishReason) {
      return { text, numTokens: index + 1, finishReason: chunk.finishReason, stop: chunk.stop };
    }
  }
  return { text, numTokens: tokens.length, finishReason: undefined, stop: undefined };
}

/** Does the same with the whole text of each prefix. */
function plain(tokens: readonly number[], { stop: stops = [], maxTokens = 1000 }: SamplingParams): Shown {
  const [stop = "\0"] = [stops].flat();
  for (let count = 1; count <= tokens.length; count++) {
    const text = tokenizer.decode(tokens.slice(0, count));
    const at = text.indexOf(stop);
    if (at >= 0) return { text: text.slice(0, at), numTokens: count, finishReason: "stop", stop };
    if (count === maxTokens) return { text, numTokens: count, finishReason: "length", stop: undefined };
  }
  return { text: tokenizer.decode(tokens), numTokens: tokens.length, finishReason: undefined, stop: undefined };
}

test("a text ends before the first place of a stop string, or with the last token that it may have", () => {
  const random = seededRandom(4);
  const reasons = new Map<string, number>();
  for (let round = 0; round < 500; round++) {
    const from = randomInteger(random, TEXT.length - 1);
    const stop = Array.from(TEXT.slice(from))
      .slice(0, 1 + randomInteger(random, 6))
      .join("");
    const params = {
      maxTokens: 1 + randomInteger(random, ids.length + 5),
      ...(random() < 0.7 && !/\p{Surrogate}/u.test(stop) ? { stop } : {}),
    };
    const expected = plain(ids, params);
    const found = accept(ids, params);
    expect({ ...found, text: "" }).toEqual({ ...expected, text: "" });
    // Text that may begin a stop string is held back only while the sequence continues.
    if (found.finishReason) expect(found.text).toBe(expected.text);
    else expect(expected.text.startsWith(found.text)).toBe(true);
    const reason = `${found.finishReason} ${found.stop === undefined}`;
    reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  }
  expect(reasons.size).toBe(3);
  expect(Math.min(...reasons.values())).toBeGreaterThan(10);
});

describe("an end token", () => {
  test("ends the text without its spelling, unless it is ignored", () => {
    const tokens = [...ids.slice(0, 5), EOS, ...ids.slice(5)];
    const text = tokenizer.decode(ids.slice(0, 5));
    expect(accept(tokens, {})).toEqual({ text, numTokens: 6, finishReason: "stop", stop: undefined });
    expect(accept(tokens, { ignoreEos: true })).toMatchObject({ numTokens: tokens.length, finishReason: undefined });
  });

  test("of the request ends the text even if those of the model are ignored", () => {
    const stopTokenIds = [ids[4] as number];
    const text = tokenizer.decode(ids.slice(0, 4));
    expect(ids.slice(0, 4)).not.toContain(stopTokenIds[0]);
    const params = { stopTokenIds, ignoreEos: true };
    expect(accept(ids, params)).toEqual({ text, numTokens: 5, finishReason: "stop", stop: undefined });
  });

  test("shows text that was held back as the beginning of a stop string", () => {
    const stop = `${tokenizer.decode(ids.slice(0, 5))}, and never more`;
    const text = tokenizer.decode(ids.slice(0, 5));
    expect(accept([...ids.slice(0, 5), EOS], { stop })).toMatchObject({ text, finishReason: "stop", stop: undefined });
    expect(accept(ids.slice(0, 5), { stop, maxTokens: 5 })).toMatchObject({ text, finishReason: "length" });
    expect(accept(ids.slice(0, 5), { stop })).toMatchObject({ text: "", finishReason: undefined });
  });
});

test("a sequence that fills the context ends by length", () => {
  expect(accept(ids, {}, 12)).toMatchObject({ numTokens: 10, finishReason: "length" });
  expect(accept(ids, { maxTokens: 10 }, 13)).toMatchObject({ numTokens: 10, finishReason: "length" });
  expect(accept(ids, { maxTokens: 11 }, 12)).toMatchObject({ numTokens: 10, finishReason: "length" });
});

test("a character that is cut off by the end is shown as far as it can be, and a stop string may be part of it", () => {
  const emoji = Array.from(tokenizer.encode("🙂", { addSpecialTokens: false }));
  expect(emoji.length).toBeGreaterThan(1);
  const cut = emoji.slice(0, -1);
  const text = tokenizer.decode(cut);
  expect(accept(cut, {})).toMatchObject({ text: "", finishReason: undefined });
  expect(accept(cut, { maxTokens: cut.length })).toMatchObject({ text, finishReason: "length" });
  const stopped = accept(cut, { maxTokens: cut.length, stop: "\uFFFD" });
  expect(stopped).toEqual({ text: "", numTokens: cut.length, finishReason: "stop", stop: "\uFFFD" });
});
