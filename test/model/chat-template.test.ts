import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { GgufFile } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import type { ChatMessage } from "@readme-moe/core";
import { applyChatTemplate, ChatTemplate } from "../../packages/model/src/text/chat-template.ts";
import { ggufChatTemplate, loadChatTemplate, loadTokenizer } from "../../packages/model/src/text/load-text.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import {
  byteLevelDefinition,
  expectThrownReadMeError,
  goldenCases,
  smolLm2,
} from "../support/tokenizer-definitions.ts";

const HELLO: readonly ChatMessage[] = [{ role: "user", content: "Hello" }];
const JOINING =
  "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
const tokenizer = tokenizerWithBos();

describe("SmolLM2's chats", () => {
  it("are rendered and encoded as by transformers, from the folder and from GGUF metadata", async (context) => {
    const folder = smolLm2(context);
    const smol = await loadTokenizer(folder);
    const file = await GgufFile.open(join(folder, "SmolLM2-135M-Instruct.Q4_1.gguf"));
    await file.close();
    const templates = [await loadChatTemplate(folder, smol), ggufChatTemplate(file.metadata, file.path, smol)];
    const chats = goldenCases("smollm2-135m-instruct").filter(({ kind }) => kind === "chat");
    expect(chats.length).toBeGreaterThan(0);
    for (const { text, input_ids } of chats) {
      const content = /user\n(.*)<\|im_end\|>/.exec(text)?.[1] ?? "";
      const messages = [{ role: "user", content }];
      for (const template of templates) {
        expect(template?.render(messages)).toBe(text);
        expect([...applyChatTemplate(smol, template, messages)]).toEqual(input_ids);
      }
    }
  });
});

/** A chat whose last message the assistant has begun. */
function begunChat(content: string): readonly ChatMessage[] {
  return [...HELLO, { role: "assistant", content }];
}

const called = (content: string | null): readonly ChatMessage[] => [
  ...HELLO,
  {
    role: "assistant",
    content,
    tool_calls: [{ id: "1", type: "function", function: { name: "now", arguments: { a: [1, "é"] } } }],
  },
];

describe("render", () => {
  it("gives the template the chat, and asks for an answer by default", () => {
    const template = new ChatTemplate(JOINING, tokenizer);
    expect(template.render(HELLO)).toBe("[user]Hello[assistant]");
    expect(template.render(HELLO, { addGenerationPrompt: false })).toBe("[user]Hello");
  });

  it("ends within the last message that is to be continued, with its spaces", () => {
    const trimming = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}</s>\n{% endfor %}";
    for (const content of ["", "Well, ", "a\n\n", "</s>\n", "\u{fdd0}\u{fdd1}\u{fdd2}", "[user]Hello</s>"]) {
      const joined = new ChatTemplate(JOINING, tokenizer).render(begunChat(content), { continueFinalMessage: true });
      expect(joined).toBe(`[user]Hello[assistant]${content}`);
      const trimmed = new ChatTemplate(trimming, tokenizer).render(begunChat(content), { continueFinalMessage: true });
      expect(trimmed).toBe(`[user]Hello</s>\n[assistant]${content}`);
    }
  });

  it("refuses to continue what is no text of the assistant", () => {
    const template = new ChatTemplate(JOINING, tokenizer);
    const continued = { continueFinalMessage: true };
    const parts = [{ type: "text", text: "x" }];
    for (const last of [
      HELLO[0] as ChatMessage,
      { role: "assistant", content: parts },
      { role: "assistant", tool_calls: [] },
    ]) {
      expect(() => template.render([...HELLO, last], continued)).toThrow(TypeError);
    }
    const begun = begunChat("Well");
    expect(() => template.render(begun, { ...continued, addGenerationPrompt: true })).toThrow(/`addGenerationPrompt`/);
    const silent = new ChatTemplate("{{ messages[0]['content'] }}", tokenizer);
    expectThrownReadMeError(() => silent.render(begun, continued), "ERR_CHAT_TEMPLATE", "leaves out the last message");
  });

  it("gives the template tokens, tools, documents and any other variable", () => {
    const source =
      "{{ bos_token }}{{ eos_token }}|{{ tools is none }}|{{ tools | length if tools else 0 }}|{{ documents is none }}|{{ mood }}";
    const template = new ChatTemplate(source, tokenizer);
    expect(template.render(HELLO)).toBe("<s></s>|true|0|true|");
    expect(template.render(HELLO, { tools: [{}, {}], documents: [{}], mood: "calm" })).toBe(
      "<s></s>|false|2|false|calm",
    );
    expect(template.render(HELLO, { tools: [], messages: "mine", add_generation_prompt: 1 })).toBe(
      "<s></s>|true|0|true|",
    );
  });

  it("trims blocks like transformers", () => {
    expect(new ChatTemplate("  {% if true %}\na\n  {% endif %}\nb", tokenizer).render(HELLO)).toBe("a\nb");
  });

  it("writes dates of the given clock in English", () => {
    const template = new ChatTemplate(
      "{{ strftime_now('%d %b %Y, %A %-d %B %y %H:%M:%S %I %p 100%% %Q') }}",
      tokenizer,
      { now: () => new Date(2026, 1, 3, 14, 5, 6) },
    );
    expect(template.render(HELLO)).toBe("03 Feb 2026, Tuesday 3 February 26 14:05:06 02 PM 100% %Q");
  });

  it("has the globals of Jinja, which a variable may hide", () => {
    const source =
      "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(1, 8, 3) | list }}{{ range(2, 0, -1) | list }}{{ True }}{{ none is none }}";
    expect(new ChatTemplate(source, tokenizer).render(HELLO)).toBe("012[1, 4, 7][2, 1]truetrue");
    expect(new ChatTemplate("{{ range }}", tokenizer).render(HELLO, { range: "mine" })).toBe("mine");
    const endless = new ChatTemplate("{{ range(1000000000) | length }}", tokenizer);
    expectThrownReadMeError(() => endless.render(HELLO), "ERR_CHAT_TEMPLATE", "too long");
  });

  it("finds nothing by a key that is none, as Jinja does", () => {
    // Hermes' templates look types of parameters up, which may be lists or absent.
    const source =
      "{% set names = {'string': 'str'} %}{% for key in keys + [none, true, nowhere] %}{{ names[key] is defined }} {% endfor %}{{ [1][nowhere] is defined }}{{ 'a'[keys] is defined }}{{ names['string'] }}{{ keys[-1][0] }}";
    const keys = ["string", "other", {}, ["string", "null"]];
    expect(new ChatTemplate(source, tokenizer).render(HELLO, { keys })).toBe(
      "true false false false false false false falsefalsestrstring",
    );
  });

  it("writes calls of tools into the text for a template that leaves them out", () => {
    // As Granite 3 does.
    const granite = `{% if tools %}Answer with <|tool_call|> and a list.{% endif %}${JOINING}`;
    const call = '[{"name":"now","arguments":{"a":[1,"é"]}}]';
    for (const content of ["I look. ", "", null]) {
      const text = new ChatTemplate(granite, tokenizer).render(called(content), { tools: [{}] });
      expect(text).toContain(`[user]Hello[assistant]${content ?? ""}<|tool_call|>${call}[assistant]`);
      const plain = new ChatTemplate(JOINING, tokenizer).render(called(content));
      expect(plain).toBe(`[user]Hello[assistant]${content ?? ""}${call}[assistant]`);
    }
    const reading = `${JOINING}{{ messages[1].tool_calls | length }}`;
    expect(new ChatTemplate(reading, tokenizer).render(called("x"))).toBe("[user]Hello[assistant]x[assistant]1");
  });

  it("uses the template for tools, if there is one, when tools are given", () => {
    const template = new ChatTemplate({ default: "plain", toolUse: "tools" }, tokenizer);
    expect(template.render(HELLO)).toBe("plain");
    expect(template.render(HELLO, { tools: [] })).toBe("plain");
    expect(template.render(HELLO, { tools: [{}] })).toBe("tools");
  });

  it("joins parts of text for a template that takes strings", () => {
    const content = [
      { type: "text", text: "Hello" },
      { type: "text", text: "there" },
    ];
    expect(new ChatTemplate(JOINING, tokenizer).render([{ role: "user", content }])).toBe(
      "[user]Hello\nthere[assistant]",
    );
    const looping = "{% for m in messages %}{%- for part in m['content'] %}<{{ part.text }}>{% endfor %}{% endfor %}";
    expect(new ChatTemplate(looping, tokenizer).render([{ role: "user", content }])).toBe("<Hello><there>");
  });

  it("refuses parts other than text for a template that takes strings", () => {
    const content = [{ type: "image_url", image_url: {} }];
    const render = (): string => new ChatTemplate(JOINING, tokenizer).render([{ role: "user", content }]);
    expectThrownReadMeError(render, "ERR_CHAT_TEMPLATE", "messages[0].content", "image_url");
  });

  it("passes on the message of a template that refuses a chat", () => {
    const template = new ChatTemplate("{{ raise_exception('Roles must alternate') }}", tokenizer);
    const error = expectThrownReadMeError(() => template.render(HELLO), "ERR_CHAT_TEMPLATE", "Roles must alternate");
    expect(error.cause).toBeInstanceOf(Error);
  });

  it.each(["{% for %}", "{{ 1 + }}", "{{ nothing.at() }}", "{{ messages | no_such_filter }}"])(
    "reports that %s fails",
    (source) => {
      const template = new ChatTemplate(source, tokenizer);
      expect(expectThrownReadMeError(() => template.render(HELLO), "ERR_CHAT_TEMPLATE").cause).toBeInstanceOf(Error);
    },
  );
});

describe("a caller's input", () => {
  const template = new ChatTemplate("{{ tools | tojson }}{{ x | tojson }}{{ y | length }}", tokenizer);

  it("may be null for tools and documents", () => {
    const source = "{{ tools is none }}{{ documents is none }}";
    const options = { tools: null, documents: null } as unknown as Record<string, unknown>;
    expect(new ChatTemplate(source, tokenizer).render(HELLO, options)).toBe("truetrue");
  });

  it.each(["tools", "documents"])("is named when %s are no list", (name) => {
    for (const value of [7, "abc", {}, true]) {
      expect(() => template.render(HELLO, { [name]: value })).toThrow(
        new RegExp(`Expected \`${name}\` to be an array`),
      );
    }
  });

  it("is refused when it is nested too deep, circular, or too large", () => {
    let deep: object = {};
    for (let depth = 0; depth < 20_000; depth++) deep = depth % 2 === 0 ? { deep } : [deep];
    const circle: Record<string, unknown> = {};
    circle["self"] = circle;
    for (const options of [{ x: deep }, { x: circle }, { tools: [deep] }]) {
      expectThrownReadMeError(() => template.render(HELLO, options), "ERR_CHAT_TEMPLATE", "nested more than 100 deep");
    }
    const many = { x: Array.from({ length: 300_000 }, () => 0) };
    expectThrownReadMeError(() => template.render(HELLO, many), "ERR_CHAT_TEMPLATE", "more than 200000 values");
  });

  it("does not show errors of the interpreter", () => {
    const error = expectThrownReadMeError(
      () =>
        new ChatTemplate("{{ none.x.y }}{{ x() }}", tokenizer).render(HELLO, {
          x: () => (undefined as unknown as string).length,
        }),
      "ERR_CHAT_TEMPLATE",
    );
    expect(error.message).not.toMatch(/Cannot read|undefined \(/);
  });
});

describe("wrong messages", () => {
  it.each([
    [undefined, "Expected `messages` to be an array of at least one { role, content }, got `undefined`"],
    [[], "Expected `messages` to be an array of at least one { role, content }, got an empty array"],
    ["hi", 'Expected `messages` to be an array of at least one { role, content }, got `"hi"` (string)'],
    [[...HELLO, "hi"], 'Expected `messages[1]` to be an object { role, content }, got `"hi"` (string)'],
    [[{ content: "hi" }], "Expected `messages[0].role` to be a string, got `undefined`"],
    [[{ role: "user" }], "Expected `messages[0].content` to be a string, an array of parts or null, got `undefined`"],
    [
      [{ role: "user", content: 5 }],
      "Expected `messages[0].content` to be a string, an array of parts or null, got `5` (number)",
    ],
    [
      [{ role: "user", content: [{ type: "text", text: "" }, {}] }],
      "Expected `messages[0].content[1]` to be an object with a string `type`, got `{…}` (object)",
    ],
    [
      [{ role: "user", content: [{ type: "text" }] }],
      "Expected `messages[0].content[0].text` to be a string, got `undefined`",
    ],
  ])("%j are named", (messages, message) => {
    const template = new ChatTemplate(JOINING, tokenizer);
    // @ts-expect-error a caller without types
    expect(() => template.render(messages)).toThrow(new TypeError(message));
  });

  it("are not those without content, or with null, beside tool calls", () => {
    const template = new ChatTemplate("{{ messages | length }}", tokenizer);
    const messages = [
      { role: "assistant", tool_calls: [{}] },
      { role: "assistant", content: null },
    ];
    expect(template.render(messages)).toBe("2");
  });
});

describe("applyChatTemplate", () => {
  it("adds no second BOS token", () => {
    const template = new ChatTemplate("{{ bos_token }}{{ messages[0].content }}", tokenizer);
    expect([...applyChatTemplate(tokenizer, template, HELLO)]).toEqual([256, ...Buffer.from("Hello")]);
    expect(tokenizer.encode("Hello")[0]).toBe(256);
  });

  it("fails for a model without a template", () => {
    expectThrownReadMeError(
      () => applyChatTemplate(tokenizer, undefined, HELLO),
      "ERR_CHAT_TEMPLATE",
      "no chat template",
    );
  });
});

describe("the template of a model", () => {
  it("is chat_template.jinja, else that of tokenizer_config.json, else none", async () => {
    const folder = await temporaryFolder();
    expect(await loadChatTemplate(folder, tokenizer)).toBeUndefined();
    await writeFile(join(folder, "tokenizer_config.json"), "{}");
    expect(await loadChatTemplate(folder, tokenizer)).toBeUndefined();
    await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify({ chat_template: "config" }));
    expect((await loadChatTemplate(folder, tokenizer))?.render(HELLO)).toBe("config");
    await writeFile(join(folder, "chat_template.jinja"), "file");
    expect((await loadChatTemplate(folder, tokenizer))?.render(HELLO)).toBe("file");
  });

  it("may be one of several named ones", async () => {
    const folder = await temporaryFolder();
    const chat_template = [
      { name: "tool_use", template: "tools" },
      { name: "rag", template: "rag" },
      { name: "default", template: "plain" },
    ];
    await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify({ chat_template }));
    const template = await loadChatTemplate(folder, tokenizer);
    expect(template?.render(HELLO)).toBe("plain");
    expect(template?.render(HELLO, { tools: [{}] })).toBe("tools");
  });

  it.each([[5], [[{ name: "default" }]], [[{ name: "rag", template: "x" }]], [[]]])(
    "is corrupt when it is %j",
    async (chat_template) => {
      const folder = await temporaryFolder();
      await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify({ chat_template }));
      await expectReadMeError(
        loadChatTemplate(folder, tokenizer),
        "ERR_FILE_CORRUPT",
        "tokenizer_config.json",
        "chat_template",
      );
    },
  );

  it("is found in GGUF metadata", () => {
    const metadata = new Map([
      ["tokenizer.chat_template", "plain"],
      ["tokenizer.chat_template.tool_use", "tools"],
    ]);
    const template = ggufChatTemplate(metadata, "x.gguf", tokenizer);
    expect(template?.render(HELLO)).toBe("plain");
    expect(template?.render(HELLO, { tools: [{}] })).toBe("tools");
    expect(ggufChatTemplate(new Map(), "x.gguf", tokenizer)).toBeUndefined();
    const wrong = (): unknown => ggufChatTemplate(new Map([["tokenizer.chat_template", 5]]), "x.gguf", tokenizer);
    expectThrownReadMeError(wrong, "ERR_FILE_CORRUPT", "x.gguf", "tokenizer.chat_template");
  });
});

function tokenizerWithBos(): Tokenizer {
  const single = [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  return new Tokenizer({
    path: "test",
    tokenizer: byteLevelDefinition([], {
      added_tokens: ["<s>", "</s>"].map((content, index) => ({ id: 256 + index, content, special: true })),
      post_processor: { type: "TemplateProcessing", single, pair: single },
    }),
    config: { bos_token: "<s>", eos_token: "</s>" },
  });
}
