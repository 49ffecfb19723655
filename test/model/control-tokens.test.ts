// Spellings of control tokens in callers' strings are text, whatever a template does with them.

import { type ChatMessage, isRecord } from "@readme-moe/core";
import { beforeAll, describe, expect, it } from "vitest";
import { type Chat, ChatTemplate, encodeChat } from "../../packages/model/src/text/chat-template.ts";
import { finish } from "../../packages/model/src/text/pausing.ts";
import { TokenGuard } from "../../packages/model/src/text/token-encoder.ts";
import { Tokenizer, type TokenizerSource } from "../../packages/model/src/text/tokenizer.ts";
import type { JsonObject } from "../../packages/model/src/files/read-file.ts";
import { chatTemplates, chatTokenizers } from "../support/chat-templates.ts";
import { tokenizerSources } from "../support/hostile-texts.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

type Source = ReturnType<typeof chatTokenizers>[number];

/** The first of the characters that stand for those of control tokens where these must not be found. */
const STAND_IN = 0xe000;
const MARKS = ["\ufdd0", "\ufdd1", "\ufdd2"];

let sources: readonly Source[];

beforeAll(async () => {
  // The oracle has no added tokens that remove spaces beside them, and no prefix at the beginning of a text.
  const loaded = (await tokenizerSources()).filter(({ name }) => !/flags|first/.test(name));
  sources = [...loaded, ...chatTokenizers()].filter(({ tokenizer }) => controlsOf(tokenizer).length > 1);
});

describe("the ids of a chat", () => {
  it("are those of the template's frame around its texts as plain text", () => {
    let compared = 0;
    for (const [index, source] of sources.entries()) {
      const tokenizer = new Tokenizer(source);
      const controls = controlsOf(source.tokenizer);
      const plain = new Tokenizer(withoutControls(source));
      const [start = "", end = ""] = controls.toSorted((a, b) => b.length - a.length);
      for (const [name, text] of Object.entries(chatTemplates({ start, end }))) {
        const template = new ChatTemplate(text, namedTokens(start));
        // The oracle changes characters of all control tokens, which must not be those that the template searches for.
        const changed =
          name === "qwen3" ? ["|"] : [...new Set(controls.flatMap((one) => [one.charAt(0), one.slice(-1)]))];
        if (!controls.every((control) => changed.some((one) => control.includes(one)))) continue;
        const random = seededRandom(100 * index + name.length);
        for (let round = 0; round < 12; round++) {
          const chat = hostileChat(random, controls, name === "parts");
          const expected = frameIds(template, chat, { tokenizer, plain, controls, changed });
          const ids = finish(encodeChat(tokenizer, template, chat));
          expect([...ids], `${source.name}, ${name}: ${JSON.stringify(chat)}`).toEqual(expected);
          compared++;
        }
      }
    }
    expect(compared).toBeGreaterThan(500);
  });

  it("have control tokens wherever they are spelled, on request and in plain texts", () => {
    for (const source of sources) {
      const tokenizer = new Tokenizer(source);
      const [control = ""] = controlsOf(source.tokenizer);
      const id = tokenizer.tokenId(control) ?? -1;
      const template = new ChatTemplate("{{ messages[0].content }}", tokenizer);
      const chat = { messages: [{ role: "user", content: `a${control}b` }], template: {} };
      expect([...finish(encodeChat(tokenizer, template, chat, { controlTokensInMessages: "control" }))]).toContain(id);
      expect([...finish(encodeChat(tokenizer, template, chat))], source.name).not.toContain(id);
      expect([...tokenizer.encode(`a${control}b`)]).toContain(id);
    }
  });

  it("of a harmless chat are those of its rendered text", () => {
    for (const source of sources) {
      const tokenizer = new Tokenizer(source);
      const [start = "", end = ""] = controlsOf(source.tokenizer);
      for (const text of Object.values(chatTemplates({ start, end }))) {
        const template = new ChatTemplate(text, tokenizer);
        const messages = [
          { role: "system", content: "Be kind <think> > 5" },
          { role: "user", content: "Is 3 < 4? <b>yes</b> |x|" },
        ];
        const ids = finish(encodeChat(tokenizer, template, { messages, template: {} }));
        expect([...ids]).toEqual([...tokenizer.encode(template.render(messages), { addSpecialTokens: false })]);
      }
    }
  });
});

describe("a control token that is searched for in normalized text", () => {
  it("is not found in text that normalization turns into its spelling", () => {
    const source = chatTokenizers().find(({ name }) => name === "normalized") as Source;
    const tokenizer = new Tokenizer(source);
    const id = tokenizer.tokenId("<|im_end|>") ?? -1;
    const template = new ChatTemplate("{{ messages[0].content }}<|im_end|>", tokenizer);
    for (const content of ["\uff1c|im_end|\uff1e", "a<|\uff49m_end|>", "<|im_end|>"]) {
      expect(tokenizer.encode(content)).toContain(id);
      const ids = finish(encodeChat(tokenizer, template, { messages: [{ role: "user", content }], template: {} }));
      expect(ids.filter((one) => one === id)).toHaveLength(1);
      expect(ids.at(-1)).toBe(id);
    }
  });
});

describe("ordinary added tokens", () => {
  it("are still cut out of callers' texts", () => {
    const source = chatTokenizers()[0] as Source;
    const tokenizer = new Tokenizer(source);
    const template = new ChatTemplate("{{ messages[0].content }}", tokenizer);
    const content = "<think>a<|im_end|></think>";
    const ids = finish(encodeChat(tokenizer, template, { messages: [{ role: "user", content }], template: {} }));
    expect(ids[0]).toBe(tokenizer.tokenId("<think>"));
    expect(ids.at(-1)).toBe(tokenizer.tokenId("</think>"));
    expect(ids).not.toContain(tokenizer.tokenId("<|im_end|>"));
    expect(tokenizer.decode(ids)).toBe(content);
  });
});

describe("a guard", () => {
  const spellings = ["<|im_end|>", "<|im_start|>", "<s>", "</s>", "<<s>>", "|", "aba", "\ufdd2x"];
  const guard = new TokenGuard(spellings, ["\ufdd0", "\ufdd1"]);

  it("leaves no spelling in texts, joined or trimmed, and restores every text", () => {
    const random = seededRandom(8);
    for (let round = 0; round < 3000; round++) {
      const texts = Array.from({ length: 3 }, () => hostileText(random, spellings));
      const marked = texts.map((text) => finish(guard.guard(text)).value);
      for (const [index, text] of texts.entries()) expect(guard.restore(marked[index] ?? "")).toBe(text);
      for (const joined of [marked.join(""), marked.map((text) => text.trim()).join(""), marked.join("\n")]) {
        expect(
          spellings.filter((spelling) => joined.includes(spelling)),
          JSON.stringify(texts),
        ).toEqual([]);
      }
      expect(guard.restore(marked.join(""))).toBe(texts.join(""));
    }
  });

  it("does not change values without a spelling", () => {
    const value = { role: "user", content: "hello <b> world", list: [1, null, true, { deep: "text" }] };
    const guarded = finish(guard.guard(value));
    expect(guarded).toEqual({ value, isMarked: false });
    expect(guarded.value).toBe(value);
  });

  it("marks fields and values, except names of roles and types", () => {
    const value = { role: "user", type: "function", "<s>": [{ "a</s>": "<s>" }] };
    const { value: marked, isMarked } = finish(guard.guard(value));
    expect(isMarked).toBe(true);
    expect(JSON.stringify(marked)).not.toMatch(/<s>|<\/s>/);
    expect(guard.restore(JSON.stringify(marked))).toBe(JSON.stringify(value));
  });

  it("pauses in a long text", () => {
    const work = guard.guard("<|im_end|>".repeat(100_000));
    let pauses = 0;
    while (work.next().done !== true) pauses++;
    expect(pauses).toBeGreaterThan(20);
  });
});

/** Renders with stand-ins in all callers' strings, and encodes the text between the template's own control tokens. */
function frameIds(
  template: ChatTemplate,
  chat: Chat,
  {
    tokenizer,
    plain,
    controls,
    changed,
  }: {
    readonly tokenizer: Tokenizer;
    readonly plain: Tokenizer;
    readonly controls: readonly string[];
    readonly changed: readonly string[];
  },
): number[] {
  const stand = changed.map((_, index) => String.fromCharCode(STAND_IN + index));
  const standIn = (text: string): string =>
    changed.reduce((all, one, index) => all.replaceAll(one, stand[index] ?? ""), text);
  const restored = (text: string): string =>
    stand.reduce((all, one, index) => all.replaceAll(one, changed[index] ?? ""), text);
  const replaced = mapStrings(chat, standIn) as Chat;
  const rendered = template.render(replaced.messages, replaced.template);
  const pattern = controls
    .toSorted((a, b) => b.length - a.length)
    .map((control) => control.replaceAll(/[|\\/<>[\]]/g, String.raw`\$&`));
  return rendered.split(new RegExp(`(${pattern.join("|")})`)).flatMap((section) => {
    if (section === "") return [];
    if (controls.includes(section)) return [tokenizer.tokenId(section) ?? -1];
    return [...plain.encode(restored(section), { addSpecialTokens: false })];
  });
}

/** Names of fields by which calls are found for templates that leave them out. */
const CALL_FIELDS = ["content", "tool_calls", "function", "name", "arguments"];

function mapStrings(value: unknown, map: (text: string) => string, name = ""): unknown {
  if (typeof value === "string") return name === "role" ? value : map(value);
  if (Array.isArray(value)) return value.map((entry) => mapStrings(entry, map));
  if (!isRecord(value)) return value;
  const named = (key: string): string => (CALL_FIELDS.includes(key) ? key : map(key));
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [named(key), mapStrings(entry, map, key)]));
}

function hostileChat(random: () => number, controls: readonly string[], hasParts: boolean): Chat {
  const text = (): string => hostileText(random, controls);
  const content = (): unknown =>
    hasParts && random() < 0.7
      ? Array.from({ length: 1 + randomInteger(random, 4) }, () => ({ type: "text", text: text() }))
      : text();
  const call = (): object => ({
    type: "function",
    function: { name: text(), arguments: random() < 0.5 ? text() : { [text()]: text() } },
  });
  const messages = [
    { role: "system", content: content() },
    { role: "user", content: content(), name: text() },
    { role: "assistant", content: content(), tool_calls: [call(), call()] },
    { role: "tool", content: content() },
    { role: "user", content: content() },
  ] as unknown as readonly ChatMessage[];
  const tools = [
    { type: "function", function: { name: text(), parameters: { properties: { [text()]: { description: text() } } } } },
  ];
  return { messages, template: { tools, style: text() } };
}

function hostileText(random: () => number, controls: readonly string[]): string {
  const pieces = [
    "a",
    " ",
    "\n",
    "  ",
    "<",
    ">",
    "|",
    "hello",
    "</think>",
    "<think>\n",
    "<tool_response>",
    "</tool_response>",
    "system\n",
    ...MARKS,
    "e\u0301",
    "😀",
    "1",
    "\ufdd11\ufdd1",
  ];
  return Array.from({ length: randomInteger(random, 9) }, () => {
    const control = controls[randomInteger(random, controls.length)] ?? "";
    const cut = randomInteger(random, control.length + 1);
    const kinds = [
      control,
      control.slice(0, cut),
      control.slice(cut),
      control.slice(0, cut) + control,
      `${control.slice(0, cut)} `,
      pieces[randomInteger(random, pieces.length)] ?? "",
    ];
    return kinds[randomInteger(random, kinds.length)] ?? "";
  }).join("");
}

function addedOf(tokenizer: JsonObject): readonly JsonObject[] {
  return (tokenizer["added_tokens"] ?? []) as readonly JsonObject[];
}

function controlsOf(tokenizer: JsonObject): string[] {
  return addedOf(tokenizer).flatMap(({ special, content }) => (special === true ? [String(content)] : []));
}

/** The same tokenizer without its control tokens: they are neither cut out of a text nor merged. */
function withoutControls(source: Source): TokenizerSource {
  const { tokenizer } = source;
  const controls = controlsOf(tokenizer);
  const model = tokenizer["model"] as JsonObject;
  const merges = (model["merges"] as readonly (string | readonly string[])[]).filter(
    (merge) => !controls.includes(typeof merge === "string" ? merge.replace(" ", "") : merge.join("")),
  );
  return {
    path: source.path,
    tokenizer: {
      ...tokenizer,
      added_tokens: addedOf(tokenizer).filter(({ special }) => special !== true),
      post_processor: null,
      model: { ...model, merges },
    },
  };
}

function namedTokens(bos: string): ConstructorParameters<typeof ChatTemplate>[1] {
  return { bosToken: { id: 0, text: bos }, eosToken: undefined, unkToken: undefined, padToken: undefined };
}
