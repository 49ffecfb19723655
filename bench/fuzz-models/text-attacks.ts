// Hostile tokenizers, templates and adapters: small files that ask for endless work, endless text or endless memory.

import type { Chance } from "../fuzz/chance.ts";
import { byteLevelJson } from "./base-texts.ts";

type Json = Record<string, unknown>;

/** Expressions on which a matcher that tries all ways takes exponential or at least cubic time. */
const REGEXES: readonly string[] = [
  "(x+x+)+y",
  "(x*)*y",
  "(x|x)*y",
  "(x|xx)+y",
  "((x*)*)*y",
  "(x+)+$",
  "^(([a-z])+.)+[A-Z]([a-z])+$",
  "x*x*x*x*x*x*x*x*y",
  "(?:x?){60}x{60}",
  "(.*.*.*)*",
  "(.*)(.*)(.*)(.*)y",
  "(x{1,1000}){1,1000}y",
  "((x{100}){100}){100}",
  "(?=(x+))+y",
  "(?=.*x.*x.*x.*y)",
  "(?<!x+)y",
  "\\s+(?!\\S)|\\s+",
  "(x)\\1+y",
  "[^]*?y",
  "\\p{L}*\\p{L}*\\p{N}",
  "(?i:x+x+)+y",
  "",
  "(",
  "[",
  "x{2,1}",
  "\\",
  "(?P<n>x)(?P=n)",
  "a".repeat(100_000),
  `(${"x|".repeat(5000)}y)`,
  `${"(".repeat(5000)}x${")".repeat(5000)}`,
  `${"(x".repeat(300)}${")*".repeat(300)}y`,
  "\\u{110000}",
  "\\p{Nothing}",
];

const replace = (pattern: Json, content: string): Json => ({ type: "Replace", pattern, content });

const sequence = (normalizers: readonly Json[]): Json => ({ type: "Sequence", normalizers });

const TOKENIZERS: readonly ((chance: Chance) => Json)[] = [
  (chance) => ({ pre_tokenizer: { type: "Split", pattern: { Regex: chance.pick(REGEXES) }, behavior: "Isolated" } }),
  (chance) => ({
    pre_tokenizer: {
      type: "Split",
      pattern: { Regex: chance.pick(REGEXES) },
      behavior: chance.pick(["Removed", "MergedWithPrevious", "Contiguous"]),
      invert: chance.happens(0.5),
    },
  }),
  (chance) => ({ normalizer: replace({ Regex: chance.pick(REGEXES) }, chance.pick(["", "xx", "$1$1"])) }),
  (chance) => ({
    normalizer: sequence(Array.from({ length: chance.pick([10, 40, 5000]) }, () => replace({ String: "x" }, "xx"))),
  }),
  () => ({ normalizer: sequence([replace({ String: "" }, "x"), replace({ Regex: "x*" }, "xx")]) }),
  () => ({
    normalizer: sequence([
      { type: "Prepend", prepend: "x".repeat(1_000_000) },
      replace({ String: "x" }, "y".repeat(10_000)),
    ]),
  }),
  () => ({ decoder: { type: "Sequence", decoders: Array.from({ length: 40 }, () => replace({ String: "l" }, "ll")) } }),
  () => ({ decoder: { type: "Strip", content: "x".repeat(100_000), start: 1e9, stop: 1e9 } }),
  (chance) => ({ decoder: replace({ Regex: chance.pick(REGEXES) }, "xx") }),
  () => ({
    added_tokens: Array.from({ length: 20_000 }, (_, id) => ({
      id: id + 300,
      content: `${"x".repeat(id % 300)}${id}`,
      special: true,
    })),
  }),
  () => ({ added_tokens: [{ id: 2_000_000_000, content: "x", special: true }] }),
  () => ({ added_tokens: [{ id: 300, content: "", special: true, lstrip: true, rstrip: true }] }),
  () => ({
    post_processor: {
      type: "TemplateProcessing",
      single: Array.from({ length: 50_000 }, () => ({ SpecialToken: { id: "<s>", type_id: 0 } })),
      pair: [],
    },
  }),
  () => ({
    model: {
      type: "BPE",
      vocab: Object.fromEntries(Array.from({ length: 30 }, (_, at) => ["x".repeat(2 ** Math.min(at, 14)), at])),
      merges: Array.from({ length: 14 }, (_, at) => ["x".repeat(2 ** at), "x".repeat(2 ** at)]),
    },
  }),
  (chance) => ({ model: { type: "BPE", vocab: { a: chance.pick([1e9, 2 ** 31, 2 ** 53, -1, 0.5]) }, merges: [] } }),
  (chance) => ({
    model: {
      type: "BPE",
      vocab: Object.fromEntries(Array.from({ length: 50_000 }, (_, at) => [`x${at}`, at])),
      merges: Array.from({ length: chance.pick([0, 50_000]) }, (_, at) => `x${at} x${at + 1}`),
    },
  }),
  () => ({ normalizer: nested(600, "normalizers", "Sequence") }),
  () => ({ pre_tokenizer: nested(45, "pretokenizers", "Sequence") }),
  () => ({
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: Array.from({ length: 20_000 }, () => ({ type: "Digits", individual_digits: true })),
    },
  }),
];

function nested(depth: number, key: string, type: string): Json {
  let value: Json = { type, [key]: [] };
  for (let level = 0; level < depth; level++) value = { type, [key]: [value] };
  return value;
}

/** Makes a hostile tokenizer.json. */
export function hostileTokenizer(chance: Chance): string {
  return JSON.stringify({ ...byteLevelJson(), ...chance.pick(TOKENIZERS)(chance) });
}

const MANY = ["1000000", "100000000", "9007199254740991", "2147483648", "1e308", "-1"];

const TEMPLATES: readonly ((many: string) => string)[] = [
  (many) => `{% for i in range(${many}) %}x{% endfor %}`,
  (many) => `{% for i in range(${many}) %}{% for j in range(${many}) %}{% endfor %}{% endfor %}`,
  (many) => `{{ range(${many})|list }}`,
  (many) => `{{ range(${many})|join('x') }}`,
  (many) => `{{ (range(${many})|list)|sort|reverse|unique|list|length }}`,
  (many) => `{{ 'x' * ${many} }}`,
  (many) => `{{ [0] * ${many} }}`,
  (many) => `{{ messages | tojson(indent=${many}) }}`,
  (many) => `{{ 'x\\ny' | indent(${many}) }}{{ 'x' | center(${many}) }}`,
  () => `{% set ns = namespace(t='x') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}`,
  () =>
    `{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t|length }}`,
  () =>
    `{% set ns = namespace(t={}) %}{% for i in range(60) %}{% set ns.t = {'a': ns.t, 'b': ns.t} %}{% endfor %}{{ ns.t|tojson }}`,
  () => `{{ ('x' * 1000)${"|replace('x','xx')".repeat(40)} }}`,
  () => `{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}`,
  () => `{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}`,
  () => `{{ ${"(".repeat(20_000)}1${")".repeat(20_000)} }}`,
  () => `{{ ${"[".repeat(20_000)}${"]".repeat(20_000)} }}`,
  () => "{% if true %}".repeat(20_000) + "{% endif %}".repeat(20_000),
  () => `{{ ${"1 + ".repeat(50_000)}1 }}`,
  () => `{{ ${"not ".repeat(50_000)}1 }}`,
  () => `{{ 1${" if 1 else 1".repeat(10_000)} }}`,
  () => `{{ x${".y".repeat(50_000)} }}`,
  () => "{% for m in messages %}".repeat(12) + "{% for i in range(1000) %}x{% endfor %}" + "{% endfor %}".repeat(12),
  () => `{% for a in 'x' * 100000 %}{% for b in 'x' * 100000 %}y{% endfor %}{% endfor %}`,
  () =>
    `{{ ''.__class__ }}{{ messages.constructor }}{{ messages.__proto__.x }}{{ [].constructor.constructor('return 1')() }}`,
  () => `{{ messages[0].content.split('') | map('upper') | join }}{{ messages | selectattr('role') | list }}`,
  () => `{% for i in range(1000) %}{{ messages | tojson }}{% endfor %}`,
  () => `{% generation %}{% call x() %}{% filter upper %}{% raw %}{% include 'x' %}`,
  () => `{{ raise_exception('x' * 1000000) }}`,
  () => `{{ strftime_now('%Y' * 1000000) }}`,
  () => `{{ '${"\\u0000".repeat(1000)}' }}${"{# ".repeat(5000)}`,
  () => "x".repeat(2_000_000),
];

/** Makes a hostile chat template. */
export function hostileTemplate(chance: Chance): string {
  return chance.pick(TEMPLATES)(chance.pick(MANY));
}

const ADAPTERS: readonly ((chance: Chance) => Json)[] = [
  (chance) => ({
    alpha_pattern: Object.fromEntries(Array.from({ length: 1500 }, (_, at) => [`${chance.pick(REGEXES)}${at}`, 4])),
  }),
  () => ({ alpha_pattern: Object.fromEntries(Array.from({ length: 1500 }, (_, at) => [`(.*.*.*)*${at}`, 4])) }),
  () => ({ alpha_pattern: Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [`layer${at}.*.*`, 4])) }),
  (chance) => ({ alpha_pattern: { [chance.pick(REGEXES)]: 1, [`.*${chance.pick(REGEXES)}`]: 2 } }),
  (chance) => ({ lora_alpha: chance.pick([0, -1, 1e300, 1e-300]), use_rslora: true }),
];

/** Makes fields of a hostile adapter_config.json. */
export function hostileAdapter(chance: Chance): Json {
  return chance.pick(ADAPTERS)(chance);
}
