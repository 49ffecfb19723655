// The page's storage and prompts, without a browser.

import {
  array,
  assert,
  asyncProperty,
  boolean,
  constantFrom,
  integer,
  property,
  string,
  tuple,
} from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import {
  listConversations,
  loadConversation,
  saveConversation,
  type TextStorage,
} from "../../examples/chatbot/page/state/conversation-store.ts";
import {
  expertShares,
  hasWords,
  mergeSpans,
  type Conversation,
  type Message,
  type Span,
} from "../../examples/chatbot/page/state/messages.ts";
import { nameSequences } from "../../examples/chatbot/page/state/own-requests.ts";
import { apiMessages, contentOf, fittingMessages, transcriptOf } from "../../examples/chatbot/page/state/prompt.ts";
import { roomFor } from "../../examples/chatbot/page/state/room.ts";
import { fileNameOf, fromJson, toJson, toMarkdown } from "../../examples/chatbot/page/state/transfer.ts";
import { WrittenAnswer } from "../../examples/chatbot/page/state/written-answer.ts";

/** A browser's storage for a number of characters. */
function storageOf(maxCharacters: number): TextStorage & { readonly texts: ReadonlyMap<string, string> } {
  const texts = new Map<string, string>();
  return {
    texts,
    get length() {
      return texts.size;
    },
    key: (index) => [...texts.keys()][index] ?? null,
    getItem: (key) => texts.get(key) ?? null,
    removeItem: (key) => void texts.delete(key),
    setItem(key, text) {
      const others = [...texts].filter(([other]) => other !== key).reduce((sum, [, value]) => sum + value.length, 0);
      if (others + text.length > maxCharacters) throw new Error("QuotaExceededError");
      texts.set(key, text);
    },
  };
}

const message = (text: string, role: Message["role"] = "user"): Message => ({ id: text, role, text });
const conversation = (id: string, updatedMs: number, text: string): Conversation => ({
  id,
  title: id,
  mode: "chat",
  messages: [message(text)],
  updatedMs,
});

describe("conversations in the browser", () => {
  test("are loaded unchanged, newest first; damaged ones are left out", () => {
    const storage = storageOf(5e6);
    const [a, b] = [conversation("a", 1, "line\nline"), conversation("b", 2, "other")];
    for (const one of [a, b]) expect(saveConversation(storage, one)).toBe(true);
    storage.setItem("readme-moe.conversation.c", "{broken");
    storage.setItem("somebody else", "x");
    expect(listConversations(storage).map(({ id }) => id)).toEqual(["b", "a"]);
    expect(loadConversation(storage, "a")).toEqual(a);
    expect(loadConversation(storage, "c")).toBeUndefined();
    expect(storage.getItem("somebody else")).toBe("x");
  });

  test("never exceed their limit, and the newest is stored", () => {
    const sizes = array(integer({ min: 0, max: 900_000 }), { minLength: 1, maxLength: 60 });
    assert(
      property(sizes, (lengths) => {
        const storage = storageOf(5e6);
        for (const [index, length] of lengths.entries()) {
          expect(saveConversation(storage, conversation(`id-${index}`, index, "x".repeat(length)))).toBe(true);
          expect(listConversations(storage)[0]?.id).toBe(`id-${index}`);
          expect(storage.length).toBeLessThanOrEqual(40);
        }
        expect([...storage.texts.values()].reduce((sum, text) => sum + text.length, 0)).toBeLessThanOrEqual(3_000_000);
      }),
      { numRuns: 20 },
    );
  });

  test("make room for the newest when other pages use the storage, and report when there is none", () => {
    const storage = storageOf(2000);
    expect(saveConversation(storage, conversation("old", 1, "x".repeat(400)))).toBe(true);
    expect(saveConversation(storage, conversation("new", 2, "x".repeat(700)))).toBe(true);
    expect(listConversations(storage).map(({ id }) => id)).toEqual(["new"]);
    expect(saveConversation(storage, conversation("huge", 3, "x".repeat(3000)))).toBe(false);
  });
});

describe("conversations as files", () => {
  const sources = [{ file: "law.md", title: "Files", score: 0.5 }];
  const full: Conversation = {
    ...conversation("a", 5, "What is `it`?"),
    isNamed: true,
    system: "Be brief.\nBe kind.",
    messages: [
      { ...message("What is it?"), attachments: [{ name: "a.md", text: "```js\n1\n```\n", tokens: 3 }] },
      {
        ...message("A file.", "assistant"),
        spans: [[7, -1]],
        model: "tiny · int8",
        expert: "law",
        ending: "done",
        sources,
      },
    ],
  };

  test("are the same after an export and an import", () => {
    expect(fromJson(toJson([full, conversation("b", 2, "x")]))).toEqual([full, conversation("b", 2, "x")]);
    for (const text of ["", "[]", "{}", toJson([full]).replace('"role": "user"', '"role": "system"')]) {
      expect(() => fromJson(text)).toThrow(/^This file /);
    }
    expect(() => fromJson(toJson([{ ...full, id: "a b" }]))).toThrow("at conversations.0.id");
  });

  test("are Markdown to read, with files in fences that they cannot close", () => {
    expect(toMarkdown(full)).toBe(
      "# a\n\n> Be brief.\n> Be kind.\n\n## You\n\na.md:\n````\n```js\n1\n```\n````\n\nWhat is it?\n\n" +
        "## tiny · int8 · law\n\nA file.\n\n1. Files (law.md)\n",
    );
    expect([fileNameOf("Über: 1/2?", "md"), fileNameOf("…", "json")]).toEqual(["Über-1-2.md", "conversation.json"]);
  });

  test("are found by all words of a query, in title and messages", () => {
    expect(["WHAT be", "a.md"].map((query) => hasWords(full, query))).toEqual([false, false]);
    expect(["file IT", "a"].map((query) => hasWords(full, query))).toEqual([true, true]);
  });
});

test("a written answer has its pieces, up to where it is cut, with a span for each", () => {
  const pieces = array(tuple(string({ maxLength: 5 }), integer({ min: -1, max: 3 })), { maxLength: 20 });
  assert(
    property(pieces, integer({ min: 0, max: 60 }), (all, wanted) => {
      const written = new WrittenAnswer({ ...message("begun ", "assistant"), spans: [[6, 1]], tokens: 2 }, () => 0);
      for (const [text, expert] of all) written.add({ text, reasoning: "r", tokens: 1, expert });
      const text = `begun ${all.map(([piece]) => piece).join("")}`;
      const end = Math.min(wanted, text.length);
      const before = byCharacter(written.message().spans ?? []);
      written.cutAt(end);
      const cut = written.message();
      expect([cut.text, cut.tokens, cut.reasoning ?? ""]).toEqual([
        text.slice(0, end),
        2 + all.length,
        "r".repeat(all.length),
      ]);
      expect(byCharacter(cut.spans ?? [])).toEqual(before.slice(0, end));
    }),
  );
});

test("the live view knows the page's sequences, also the one whose id the server has not told yet", () => {
  const sequences = ["simulated-3-1/0", "mine/0", "new/0"].map((id) => ({ id, tokens: 1, experts: [] }));
  const names = (ids: readonly string[], isWaiting: boolean) =>
    nameSequences(sequences, { ids, isWaiting }).map(({ name }) => name);
  expect(names(["mine"], false)).toEqual(["Simulated 3", "You", "Someone else"]);
  expect(names(["mine"], true)).toEqual(["Simulated 3", "You", "You"]);
  expect(names([], true)).toEqual(["Simulated 3", "Someone else", "Someone else"]);
});

describe("spans of an answer", () => {
  const spans = array(tuple(integer({ min: 1, max: 9 }), integer({ min: -1, max: 3 })), { maxLength: 80 });

  test("give each character the same expert when neighbours are merged", () => {
    assert(
      property(spans, (all) => {
        const merged = mergeSpans(all, 10);
        expect(byCharacter(merged)).toEqual(byCharacter(all));
        if (all.length > 10) expect(merged.every(([, expert], index) => expert !== merged[index + 1]?.[1])).toBe(true);
      }),
    );
  });

  test("are counted by expert, largest first, without those of no expert", () => {
    expect(
      expertShares([
        [2, 1],
        [3, 0],
        [1, 1],
        [4, -1],
      ]),
    ).toEqual([
      [1, 2],
      [0, 1],
    ]);
  });
});

describe("the prompt", () => {
  test("is the end of the conversation that fits, and begins with the user", async () => {
    const lengths = array(integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 40 });
    await assert(
      asyncProperty(lengths, integer({ min: 20, max: 600 }), async (all, room) => {
        const messages = all.map((length, index) =>
          message("x".repeat(length), index % 2 === 0 ? "user" : "assistant"),
        );
        if (messages.length % 2 === 0) messages.pop();
        const kept = await fittingMessages(messages, room, async (some) => characters(some));
        expect(kept).toEqual(messages.slice(messages.length - kept.length));
        expect(kept[0]?.role).toBe("user");
        if (kept.length > 1) expect(characters(kept)).toBeLessThanOrEqual(room);
      }),
    );
  });

  test("leaves room for the answer that the user wants, at most half of the context", () => {
    const options = tuple(integer({ min: 32, max: 9000 }), integer({ min: 0, max: 9000 }), boolean());
    assert(
      property(options, constantFrom("chat", "continue"), ([contextTokens, maxTokens, hasChatTemplate], mode) => {
        const { promptTokens, answerTokens } = roomFor({ contextTokens, maxTokens, hasChatTemplate, mode });
        expect(answerTokens).toBeLessThanOrEqual(contextTokens);
        expect(promptTokens).toBeGreaterThanOrEqual(contextTokens / 2);
        expect(promptTokens).toBeLessThan(contextTokens);
        if (maxTokens > 0) expect(answerTokens).toBe(Math.min(maxTokens, contextTokens));
        if (maxTokens > 0 && maxTokens <= contextTokens / 2) expect(promptTokens + answerTokens).toBe(contextTokens);
      }),
    );
  });

  test("begins with the system prompt, and has the reasoning only of an answer that goes on", () => {
    const answer = { ...message("So", "assistant"), reasoning: "Hm" };
    expect(apiMessages([message("Why?"), answer], "Be brief.")).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "Why?" },
      { role: "assistant", content: "So", reasoning_content: "Hm" },
    ]);
    expect(apiMessages([answer, message("Why?")])[0]).toEqual({ role: "assistant", content: "So" });
    expect(contentOf({ ...message(""), attachments: [{ name: "a", text: "b", tokens: 1 }] })).toBe("a:\n```\nb\n```");
  });

  test("is plain text with turns for a model without a chat template", () => {
    const messages = [message("Hello"), message("Good day", "assistant"), message("Who?")];
    expect(transcriptOf(messages)).toBe("User: Hello\nAssistant: Good day\nUser: Who?\nAssistant:");
  });
});

/** The expert of each character. */
function byCharacter(spans: readonly Span[]): readonly number[] {
  return spans.flatMap(([length, expert]) => Array.from({ length }, () => expert));
}

function characters(messages: readonly Message[]): number {
  return messages.reduce((sum, { text }) => sum + text.length, 0);
}
