// Templates that would hold up the engine or fill its memory: each is refused, and names the budget.

import { createRequire } from "node:module";
import { describe, expect, it } from "vitest";
import { ChatTemplate } from "../../packages/model/src/text/chat-template.ts";
import { chatTemplates } from "../support/chat-templates.ts";
import { expectThrownReadMeError } from "../support/tokenizer-definitions.ts";

const requireOfModel = createRequire(new URL("../../packages/model/package.json", import.meta.url));
/** The library's own interpreter. */
const { Template } = requireOfModel("@huggingface/jinja") as {
  readonly Template: new (source: string) => { render(variables: object): string };
};

const NO_TOKENS = { bosToken: undefined, eosToken: undefined, unkToken: undefined, padToken: undefined };
const STEPS = "it takes more than 4216992 steps";
const CHARACTERS = "it reads and writes more than 67110144 characters";
const LEVELS = "it nests deeper than 512 levels";

const HELLO = [{ role: "user", content: "Hello" }];

/** Sets `s` to a text of 2 ** 22 characters, `list` to a list that prints 2 ** 40 values. */
const LONG = `{% set ns = namespace(s='ab', list=[1, 2]) %}{% for i in range(21) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{% set s = ns.s %}`;
const LINES = LONG.replace("'ab'", String.raw`'a\n'`);
const WIDE = `{% set ns = namespace(list=['a', 'b']) %}{% for i in range(40) %}{% set ns.list = [ns.list, ns.list] %}{% endfor %}{% set list = ns.list %}`;
const MANY = "{% set many = range(100000) | list %}";

function nested(count: number, body: string): string {
  return `${"{% for i in range(1000) %}".repeat(count)}${body}${"{% endfor %}".repeat(count)}`;
}

const HOSTILE: readonly (readonly [string, string, string])[] = [
  ["a loop of a million in another one", nested(4, "x"), STEPS],
  ["loops without a body", nested(4, ""), STEPS],
  ["a loop that skips everything", nested(4, "{% continue %}"), STEPS],
  ["a loop with a condition", "{% for i in range(1000000) if i > 2000000 %}{% endfor %}".repeat(9), STEPS],
  [
    "long ranges",
    "{% set ns = namespace(a=[]) %}{% for i in range(9999) %}{% set ns.a = ns.a + range(999999) %}{% endfor %}",
    STEPS,
  ],
  ["ranges as lists", nested(2, "{% set x = range(1000000) | list %}"), STEPS],
  [
    "a list doubled by +",
    "{% set ns = namespace(a=[1]) %}{% for i in range(40) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    STEPS,
  ],
  ["slices of a list", `${MANY}${nested(2, "{% set x = many[1:] %}")}`, STEPS],
  ["names without a value", nested(4, "{{ nothing }}"), STEPS],
  ["searches in a list", `${MANY}${nested(2, "{{ 'a' in many }}")}`, CHARACTERS],
  ["a number in a list", `${MANY}${nested(2, "{{ -1 in many }}")}`, STEPS],
  ["macros that call themselves", "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", LEVELS],
  [
    "macros that call themselves twice",
    "{% macro m(x) %}{% if x > 0 %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    STEPS,
  ],
  [
    "a caller that calls",
    "{% macro m(x) %}{% if x > 0 %}{% call m(x - 1) %}{% endcall %}{% call m(x - 1) %}{% endcall %}{% endif %}{% endmacro %}{{ m(60) }}",
    STEPS,
  ],
  ["a macro defined again and again", nested(3, `{% macro m() %}${"{{ 1 + 1 }}".repeat(2000)}{% endmacro %}`), STEPS],
  [
    "a list as arguments",
    `${MANY}{% macro m() %}{{ varargs | length }}{% endmacro %}${nested(2, "{{ m(*many) }}")}`,
    STEPS,
  ],
  ["a long chain of operators", `{{ ${"1 + ".repeat(600)}1 }}`, LEVELS],
  ["many brackets", `{{ ${"[".repeat(600)}1${"]".repeat(600)} }}`, LEVELS],
  ["many branches", `{% if a %}${"{% elif a %}".repeat(600)}{% endif %}`, LEVELS],
  [
    "a text doubled by ~",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    CHARACTERS,
  ],
  [
    "a text doubled by +",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    CHARACTERS,
  ],
  [
    "a text doubled by a block",
    `{% set x %}ab{% endset %}${"{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60)}{{ x }}`,
    CHARACTERS,
  ],
  [
    "a text doubled by a macro",
    `{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}${"{% set x = m(x or 'ab') %}".repeat(60)}`,
    CHARACTERS,
  ],
  [
    "a text doubled by join",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
    CHARACTERS,
  ],
  [
    "a text doubled by replace",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('a', 'aa') %}{% endfor %}",
    STEPS,
  ],
  [
    "a text doubled by the method",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('a', 'aa') %}{% endfor %}",
    STEPS,
  ],
  [
    "a text escaped again and again",
    "{% set ns = namespace(s='\"') %}{% for i in range(60) %}{% set ns.s = ns.s | tojson %}{% endfor %}",
    CHARACTERS,
  ],
  ["a long text between all characters", `${LONG}{{ s | replace('', s) }}`, STEPS],
  ["a long text in place of characters", `${LONG}{{ s.replace('a', s) }}`, STEPS],
  ["a long text between items", `${LONG}${MANY}{{ many | join(s) }}`, CHARACTERS],
  ["a long text between characters", `${LONG}{{ s | join(s) }}`, CHARACTERS],
  ["wide indents", `${LINES}{{ s | indent(1000000) }}`, STEPS],
  ["wide indents by name", `${LINES}{{ s | indent(width=1000000) }}`, STEPS],
  ["many lines", `${nested(2, "")}${LINES}{{ s | indent }}`, STEPS],
  ["wide indents of JSON", `${MANY}{{ many | tojson(indent=100000) }}`, CHARACTERS],
  ["long separators of JSON", `${LONG}${MANY}{{ many | tojson(separators=(s, s)) }}`, CHARACTERS],
  ["many parts", `${LONG}{{ s.split('a') | length }}`, STEPS],
  ["many words", `${LONG.replace("'ab'", "'a '")}{{ s.split() | length }}`, STEPS],
  ["a slice of a text", `${LONG}{% for i in range(9) %}{{ s[i:] | length }}{% endfor %}`, STEPS],
  ["a text in capitals", `${LONG}${nested(2, "{{ s | upper | length }}")}`, CHARACTERS],
  [
    "a text in a filter's block",
    `${LONG}${nested(2, "{% set x %}{% filter upper %}{{ s }}{% endfilter %}{% endset %}")}`,
    CHARACTERS,
  ],
  ["a text that is tested", `${LONG}${nested(2, "{{ s is upper }}")}`, CHARACTERS],
  [
    "texts that are tested",
    `${LONG}{% set d = [{'a': s}] %}${nested(2, "{{ d | selectattr('a', 'upper') | list | length }}")}`,
    CHARACTERS,
  ],
  ["texts that are compared", `${LONG}{% set t = s ~ '' %}${nested(2, "{{ s == t }}")}`, CHARACTERS],
  ["a search for a long text", `${LONG}{% set t = s ~ s %}{{ (s ~ 'c') in t }}`, CHARACTERS],
  [
    "a sorted list of texts",
    `${LONG}{% set l = [s, s, s, s, s, s, s, s] %}${nested(1, "{{ l | sort | length }}")}`,
    CHARACTERS,
  ],
  [
    "a long name of an attribute",
    `${LONG}{% set d = [{'a': 1}] %}${nested(2, "{{ d | map(attribute=s) | list | length }}")}`,
    CHARACTERS,
  ],
  ["a printed list in lists", `${WIDE}{{ list }}`, STEPS],
  ["a list in lists as JSON", `${WIDE}{{ list | tojson }}`, STEPS],
  ["a list in lists as a text", `${WIDE}{{ list | string }}`, STEPS],
  ["a joined list in lists", `${WIDE}{{ list | join }}`, STEPS],
  ["a list in lists beside a text", `${WIDE}{{ list ~ 'a' }}`, STEPS],
  ["a list in lists and a text", `${WIDE}{{ 'a' + list }}`, STEPS],
  ["a list in lists compared with a text", `${WIDE}{{ list == 'a' }}`, STEPS],
  ["a list in lists in a block", `${WIDE}{% set x %}{{ list }}{% endset %}`, STEPS],
  ["a list in lists from a macro", `${WIDE}{% macro m() %}{{ list }}{% endmacro %}{{ m() | length }}`, STEPS],
  [
    "a list as a caller's arguments",
    `${MANY}{% macro m() %}{{ varargs | length }}{% endmacro %}${nested(2, "{% call m(*many) %}{% endcall %}")}`,
    STEPS,
  ],
  [
    "pairs as a namespace",
    `{% set ns = namespace(s='aa,') %}{% for i in range(17) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{% set pairs = (ns.s ~ 'aa').split(',') %}${nested(2, "{% set x = namespace(pairs) %}")}`,
    STEPS,
  ],
  [
    "names in many scopes",
    `{% macro m(x) %}{% if x > 0 %}{{ m(x - 1) }}{% else %}${nested(3, "{{ bos_token }}")}{% endif %}{% endmacro %}{{ m(50) }}`,
    STEPS,
  ],
  [
    "an object with sorted keys",
    `${LONG}{% set o = {s ~ 'a': 1, s ~ 'b': 2, s ~ 'c': 3, s ~ 'd': 4} %}{{ o | tojson(sort_keys=true) }}`,
    CHARACTERS,
  ],
  ["an object in itself", "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}", STEPS],
  ["sorted lists in lists", `${WIDE}{{ [list, list] | unique | list | length }}`, STEPS],
];

describe("a template's budget", () => {
  it.each(HOSTILE)("ends %s", (_, source, budget) => {
    const template = new ChatTemplate(source, NO_TOKENS);
    expectThrownReadMeError(() => template.render(HELLO), "ERR_CHAT_TEMPLATE", budget);
  });

  it("is enough for the longest chats with tools, whose texts are those of the plain library", () => {
    const messages = Array.from({ length: 8192 }, (_, index) => ({
      role: index % 2 === 0 ? "user" : "assistant",
      content: `<think>${"thoughts ".repeat(20)}</think>\n\nAnswer ${index}: ${"a word or two, ".repeat(25)}`,
    }));
    const parameters = { type: "object", properties: { city: { type: "string", enum: ["Paris", "Rome"] } } };
    const tools = Array.from({ length: 128 }, (_, index) => {
      return { type: "function", function: { name: `tool_${index}`, description: "Does things.", parameters } };
    });
    for (const [style, source] of Object.entries(chatTemplates({ start: "<|im_start|>", end: "<|im_end|>" }))) {
      const text = new ChatTemplate(source, NO_TOKENS).render(messages, { tools });
      const variables = { messages, tools, documents: null, add_generation_prompt: true };
      expect([style, text]).toStrictEqual([style, new Template(source).render(variables)]);
    }
  });

  it("changes nothing of blocks that are filtered, left early or called", () => {
    const source = `{% filter upper %}a{{ messages[0].role }}{% filter indent(2, true) %}b\nc{% endfilter %}{% endfilter %}
{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 5 %}{% break %}{% endif %}{{ i }},{{ [i, [nothing]] }}{% endfor %}
{% macro m(x, y=2) %}{{ caller(x * y) }}{{ varargs }}{% endmacro %}{% call(z) m(3, 4, 5) %}{{ z }}{% endcall %}`;
    const text = new ChatTemplate(source, NO_TOKENS).render(HELLO);
    expect(text).toBe(new Template(source).render({ messages: HELLO }));
    expect(text).toContain("AUSER  B\n  C");
  });

  it("is not asked for a source that takes long to read", () => {
    for (const [source, reason] of [
      [" ".repeat(1025), "more than 1024 spaces in a row"],
      ["a".repeat(2 ** 20 + 1), "more than 1048576 characters"],
    ] as const) {
      const template = new ChatTemplate(source, NO_TOKENS);
      expectThrownReadMeError(() => template.render(HELLO), "ERR_CHAT_TEMPLATE", "cannot be read", reason);
    }
    for (const source of ["{{ (".repeat(2 ** 18), "{% if a %}".repeat(1e5), `{{ ${"not ".repeat(2 ** 17)}a }}`]) {
      const template = new ChatTemplate(source, NO_TOKENS);
      expectThrownReadMeError(() => template.render(HELLO), "ERR_CHAT_TEMPLATE", "cannot be read");
    }
  });

  it("keeps a template from making long or deep messages of errors", () => {
    const long = new ChatTemplate(`${LONG}{{ raise_exception(s) }}`, NO_TOKENS);
    const { message } = expectThrownReadMeError(() => long.render(HELLO), "ERR_CHAT_TEMPLATE", "abab");
    expect(message.length).toBeLessThan(1100);
    for (const call of ["raise_exception(list)", "range(list)", "range(1, list)"]) {
      const deep = new ChatTemplate(`${WIDE}{{ ${call} }}`, NO_TOKENS);
      expectThrownReadMeError(() => deep.render(HELLO), "ERR_CHAT_TEMPLATE", "`[…]` (array)");
    }
    expect(new ChatTemplate(`${WIDE}{{ strftime_now(list) }}`, NO_TOKENS).render(HELLO)).toBe("`[…]` (array)");
  });
});
