// Reasoning in answers: parsing, budgets and bounds, against plain implementations and by exhaustive walks.

import type { AllowContext, AllowedTokens, ProcessLogits } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { limitReasoning, reasoningPlace, type ReasoningRule } from "../../packages/grammar/src/reasoning-limit.ts";
import {
  ChannelParser,
  ReasoningParser,
  reasoningStart,
  type ReasoningStart,
} from "../../packages/express/src/reasoning/reasoning-parser.ts";
import { reasoningBudget } from "../../packages/express/src/reasoning/reasoning.ts";
import * as fc from "../support/fast-check.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

interface Split {
  readonly reasoning: string;
  readonly content: string;
}

const trim = (part: string): string => part.replace(/^[ \t\r\n]+/, "").replace(/[ \t\r\n]+$/, "");

/** Splits a whole text with regular expressions. */
function plainSplit(start: ReasoningStart, text: string): Split {
  const begun = start === "within" ? `<think>${text}` : text;
  if (start === "behind" || !/^[ \t\r\n]*<think>/.test(begun)) return { reasoning: "", content: text };
  const inside = begun.replace(/^[ \t\r\n]*<think>/, "");
  const end = inside.indexOf("</think>");
  if (end === -1) return { reasoning: trim(inside), content: "" };
  return { reasoning: trim(inside.slice(0, end)), content: inside.slice(end + 8).replace(/^[ \t\r\n]+/, "") };
}

function parsed(start: ReasoningStart, pieces: readonly string[]): Split {
  const parser = new ReasoningParser(start);
  const parts = [...pieces.map((piece) => parser.push(piece)), parser.end()];
  return {
    reasoning: parts.map(({ reasoning }) => reasoning).join(""),
    content: parts.map(({ content }) => content).join(""),
  };
}

describe("the parser", () => {
  const words = ["<think>", "</think>", "<think", "</thi", "nk>", "<", "a", "é", "\n", " ", "<|x|>", "🙂"];
  const pieces = fc.array(fc.constantFrom(...words), { maxLength: 14 });
  const starts = fc.constantFrom<ReasoningStart>("before", "within", "behind");

  test("splits as regular expressions do, however the text is cut", () => {
    fc.assert(
      fc.property(starts, pieces, (start, all) => {
        const text = all.join("");
        const expected = plainSplit(start, text);
        expect(parsed(start, all)).toEqual(expected);
        expect(parsed(start, [text])).toEqual(expected);
        expect(
          parsed(
            start,
            Array.from({ length: text.length }, (_, at) => text.charAt(at)),
          ),
        ).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
  });

  test.each(["before", "within"] as const)("takes a million blanks one at a time (%s reasoning)", (start) => {
    // Reading what is held back again for each of them would take hours.
    const blanks = Array.from({ length: 1_000_000 }, () => " ");
    const begun = start === "within" ? ["a"] : ["\n"];
    const all = [...begun, ...blanks, start === "within" ? "b" : "<think>b", ...blanks, "</think>c"];
    const expected = start === "within" ? `a${" ".repeat(1_000_000)}b` : "b";
    const { reasoning, content } = parsed(start, all);
    expect([reasoning === expected, content]).toStrictEqual([true, "c"]);
  });

  test("passes text on as soon as it cannot be a mark", () => {
    const parser = new ReasoningParser("before");
    expect(parser.push("Hello")).toEqual({ reasoning: "", content: "Hello" });
    const thinking = new ReasoningParser("within");
    expect(thinking.push("a <").reasoning).toBe("a");
    expect(thinking.push("b").reasoning).toBe(" <b");
  });

  test.each([
    ["<|im_start|>assistant\n", "before"],
    ["<|im_start|>assistant\n<think>\n", "within"],
    ["<|im_start|>assistant\n<think>\n\n</think>\n\n", "behind"],
    ["<think>", "within"],
    ["", "before"],
  ] as const)("finds where the answer to %j begins", (prompt, start) => {
    expect(reasoningStart(prompt)).toBe(start);
  });
});

/** Splits a whole answer at its marks. */
function plainChannels(text: string): Split {
  const parts = text.split(/(<\|end\|>|<\|call\|>|<\|return\|>|(?=<\|start\|>))/);
  const thoughts: string[] = [];
  let content = "";
  for (const [at, part = ""] of parts.entries()) {
    if (at % 2 === 1) continue;
    const [header = "", ...rest] = part.split("<|message|>");
    const body = rest.join("<|message|>");
    const isHeader = /^(?:<\|start\|>|<\|channel\|>| to=)/.test(part);
    if (!isHeader) content += part;
    else if (header.includes("to=functions."))
      content += rest.length > 0 ? part + (parts[at + 1] === "<|call|>" ? "<|call|>" : "") : "";
    else if (header.includes("analysis")) thoughts.push(body);
    else content += body;
  }
  return { reasoning: thoughts.filter((one) => one !== "").join("\n"), content };
}

describe("an answer in channels", () => {
  const messages = fc.array(
    fc.record({
      header: fc.constantFrom(
        "<|channel|>analysis",
        "<|channel|>final",
        "<|channel|>commentary",
        "<|channel|>commentary to=functions.f <|constrain|>json",
        " to=functions.f<|channel|>commentary json",
      ),
      body: fc.constantFrom("", "a <b|> c\n", "{}", "<|me", "x"),
      end: fc.constantFrom("<|end|>", "<|call|>"),
    }),
    { maxLength: 5 },
  );

  test("is split as at its marks, however the text is cut", () => {
    fc.assert(
      fc.property(messages, fc.boolean(), fc.nat(), (all, isCut, seed) => {
        const whole = all
          .map(({ header, body, end }, at) => `${at > 0 ? "<|start|>assistant" : ""}${header}<|message|>${body}${end}`)
          .join("");
        const text = isCut ? whole.replace(/<\|(?:end|call)\|>$/, "") : whole;
        const random = seededRandom(seed);
        const parser = new ChannelParser("<|start|>user<|message|>Hi<|end|><|start|>assistant");
        const parts: Split[] = [];
        for (let at = 0; at < text.length;) {
          const length = 1 + randomInteger(random, 9);
          parts.push(parser.push(text.slice(at, at + length)));
          at += length;
        }
        parts.push(parser.end());
        expect(parts.map(({ reasoning }) => reasoning).join("")).toBe(plainChannels(text).reasoning);
        expect(parts.map(({ content }) => content).join("")).toBe(plainChannels(text).content);
      }),
      { numRuns: 2000 },
    );
  });

  test("is content where it has no header, and goes on within the message that the prompt ends with", () => {
    const free = new ChannelParser("<|start|>assistant");
    expect([free.push('{"a"'), free.push(": 1}"), free.end()].map(({ content }) => content)).toEqual([
      '{"a"',
      ": 1}",
      "",
    ]);
    const within = new ChannelParser("<|start|>assistant<|channel|>analysis<|message|>So");
    expect(within.isReasoning).toBe(true);
    expect(within.push(" far.<|end|><|start|>assistant<|channel|>final<|message|>Yes")).toEqual({
      reasoning: " far.",
      content: "Yes",
    });
  });

  test("that is cut within a header ends there", () => {
    const parser = new ChannelParser("<|start|>assistant");
    expect(parser.push("<|channel|>ana")).toEqual({ reasoning: "", content: "" });
    expect(parser.end()).toEqual({ reasoning: "", content: "" });
  });
});

test.each([
  ["bracket", "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."],
  ["channel", "<|channel>thought\nHm.\n<channel|>Yes.", "Hm.", "Yes."],
] as const)("reasoning of the form %s is split off", (form, text, reasoning, content) => {
  const parser = new ReasoningParser("before", form);
  const parts = [...Array.from(text, (one) => parser.push(one)), parser.end()];
  expect(parts.map((part) => part.reasoning).join("")).toBe(reasoning);
  expect(parts.map((part) => part.content).join("")).toBe(content);
});

test.each([
  ["channel", "<|turn>model\n<|channel>thought\n<channel|>", "behind"],
  ["channel", "<|turn>model\n<|channel>thought\n", "within"],
  ["bracket", "[/INST]", "before"],
] as const)("an answer of the form %s behind %j begins %s reasoning", (form, prompt, start) => {
  expect(reasoningStart(prompt, form)).toBe(start);
});

describe("a budget", () => {
  test.each<[Parameters<typeof reasoningBudget>[0], number | undefined, boolean | undefined]>([
    [{}, undefined, undefined],
    [{ reasoning_effort: null, thinking_token_budget: null }, undefined, undefined],
    [{ reasoning_effort: "none" }, 0, false],
    [{ reasoning_effort: "minimal" }, 10, true],
    [{ reasoning_effort: "low" }, 20, true],
    [{ reasoning_effort: "medium" }, 50, true],
    [{ reasoning_effort: "high" }, 80, true],
    [{ reasoning_effort: "xhigh" }, 95, true],
    [{ reasoning_effort: "max" }, undefined, true],
    [{ thinking_token_budget: 7 }, 7, true],
    [{ thinking_token_budget: 7, reasoning_effort: "high" }, 7, true],
    [{ thinking_token_budget: 0 }, 0, false],
    [{ chat_template_kwargs: { enable_thinking: false } }, 0, false],
    [{ chat_template_kwargs: { enable_thinking: true } }, undefined, true],
  ])("of %j has a budget of %s, and sets the template's switch to %s", (fields, budget, isOn) => {
    const { budgetTokens, template } = reasoningBudget(fields, 100);
    expect([budgetTokens, template["enable_thinking"]]).toEqual([budget, isOn]);
  });

  test("leaves the template's variables that the request gives", () => {
    const own = { enable_thinking: false, style: "x" };
    expect(reasoningBudget({ chat_template_kwargs: own, reasoning_effort: "high" }, 100).template).toMatchObject(own);
  });
});

const [EOS, BEGIN, END, LINE, GAP] = [0, 1, 2, 3, 4];
const VOCABULARY = 40;
const RULE: ReasoningRule = {
  vocabSize: VOCABULARY,
  beginId: BEGIN,
  endId: END,
  isOpen: false,
  closingIds: [LINE, END, GAP],
  gapIds: [GAP],
  eosTokenIds: [EOS],
};

/** Allows tokens 10, 11 and 12 in this order, and then the end. */
const counting: ProcessLogits = Object.assign((): void => undefined, {
  allowTokens: ({ tokenIds, promptTokens }: AllowContext): AllowedTokens => {
    const next = [10, 11, 12][tokenIds.length - promptTokens] ?? EOS;
    return { draft: new Int32Array(), numForced: 0, masks: [maskOf([next])] };
  },
});

function maskOf(ids: readonly number[]): Int32Array {
  const mask = new Int32Array(2);
  for (const id of ids) mask[id >> 5] = (mask[id >> 5] ?? 0) | (1 << (id & 31));
  return mask;
}

function idsOf(mask: Int32Array | undefined): readonly number[] {
  return Array.from({ length: VOCABULARY }, (_, id) => id).filter((id) => ((mask?.[id >> 5] ?? 0) >>> (id & 31)) & 1);
}

/** Writes an answer at random from what is allowed. */
async function write(rule: ReasoningRule, random: () => number, maxTokens = 60): Promise<readonly number[]> {
  const limit = limitReasoning(rule);
  const prompt = [30, 31];
  const tokens: number[] = [];
  while (tokens.length < maxTokens && tokens.at(-1) !== EOS) {
    const draft = Int32Array.from({ length: randomInteger(random, 4) }, () => randomInteger(random, VOCABULARY));
    const tokenIds = Int32Array.from([...prompt, ...tokens]);
    const allowed = await limit.allowTokens?.({ tokenIds, promptTokens: 2, choice: 0, draft });
    if (!allowed) throw new Error("Expected allowed tokens");
    expect(allowed.masks).toHaveLength(1 + allowed.draft.length);
    // Every draft is allowed where it stands, and the masks behind it are those that are asked for there.
    for (const [index, id] of allowed.draft.entries()) {
      expect(idsOf(allowed.masks[index])).toContain(id);
      const further = Int32Array.from([...tokenIds, ...allowed.draft.subarray(0, index + 1)]);
      const none = new Int32Array();
      const alone = await limit.allowTokens?.({ tokenIds: further, promptTokens: 2, choice: 0, draft: none });
      expect(idsOf(allowed.masks[index + 1])).toEqual(idsOf(alone?.masks[0]));
    }
    const logits = new Float32Array(VOCABULARY);
    await limit(logits, { tokenIds, promptTokens: 2, choice: 0 });
    const ids = idsOf(allowed.masks[0]);
    expect(Array.from(logits.keys()).filter((id) => logits[id] === 0)).toEqual(ids);
    tokens.push(ids[randomInteger(random, ids.length)] ?? EOS);
  }
  return tokens;
}

const place = (tokens: readonly number[], more: Partial<ReasoningRule> = {}) =>
  reasoningPlace(tokens, { ...RULE, budgetTokens: 2, ...more });

describe("a limit", () => {
  test.each([0, 1, 2, 5])("ends reasoning after %i tokens, and binds what follows", async (budgetTokens) => {
    const random = seededRandom(budgetTokens + 1);
    let numForced = 0;
    for (let run = 0; run < 60; run++) {
      const isOpen = run % 2 === 0;
      const tokens = await write({ ...RULE, isOpen, budgetTokens, bound: counting }, random);
      const inside = isOpen ? tokens : tokens[0] === BEGIN ? tokens.slice(1) : undefined;
      if (!inside) {
        expect(tokens).toEqual([10, 11, 12, EOS]);
        continue;
      }
      const end = inside.indexOf(END);
      const isForced = end === budgetTokens + 1 && inside[end - 1] === LINE;
      if (isForced) numForced++;
      expect(end).toBeLessThanOrEqual(budgetTokens + 1);
      expect(inside.slice(end + 1)).toEqual([GAP, 10, 11, 12, EOS]);
      expect(inside.slice(0, end)).not.toContain(EOS);
    }
    expect(numForced).toBeGreaterThan(10);
  });

  test("never begins reasoning with a budget of nothing", async () => {
    for (let run = 0; run < 40; run++) {
      const [first] = await write({ ...RULE, budgetTokens: 0 }, seededRandom(run));
      expect(first).not.toBe(BEGIN);
    }
  });

  test("leaves a free answer free behind its reasoning", () => {
    expect(place([])).toEqual({ at: "start" });
    expect(place([7, BEGIN])).toEqual({ at: "content", from: 0 });
    expect(place([BEGIN])).toEqual({ at: "reasoning", used: 0 });
    expect(place([BEGIN, 7, END])).toEqual({ at: "content", from: 3 });
    expect(place([BEGIN, 7, END], { bound: counting })).toEqual({ at: "forced", id: GAP });
    expect(place([BEGIN, 7, 8])).toEqual({ at: "forced", id: LINE });
    expect(place([BEGIN, 7, 8, LINE, END])).toEqual({ at: "forced", id: GAP });
    expect(place([BEGIN, 7, 8, LINE, END, GAP, 9])).toEqual({ at: "content", from: 6 });
    expect(place([7, END, GAP], { isOpen: true, bound: counting })).toEqual({ at: "content", from: 3 });
  });
});
