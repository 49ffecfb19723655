// Bodies that the API must accept: every field, with values that its documentation allows.

import {
  SAMPLING_PARAMETERS,
  samplingParametersWith,
  wireName,
  type SamplingName,
  type SamplingParameter,
} from "@readme-moe/core";
import type { Chance } from "./chance.ts";
import { tools, responseFormat } from "./schemas.ts";

/** Facts about the served model that requests depend on. */
export interface KnownModel {
  readonly name: string;
  readonly vocabSize: number;
  /** Whether it fills gaps. */
  readonly fillsIn: boolean;
  /** Low-rank experts that can be named throughout the run. */
  readonly experts: readonly string[];
  /** Key of the operator, where experts may be loaded. */
  readonly operatorKey?: string;
}

type Fields = Record<string, unknown>;

const WORDS = [
  "The",
  "ship",
  "was",
  "far",
  "from",
  "home",
  ".",
  "é",
  "🙂",
  "\n",
  "  ",
  "0x1F",
  "日本",
  "\u0000",
  "{",
  "</s>",
];
/** Probability that an optional field is present. */
const SHARE = 0.12;

export function text(chance: Chance, most = 12): string {
  return chance.list(1, most, () => chance.pick(WORDS)).join(chance.pick([" ", " ", ""]));
}

/** Picks some of the fields, each rarely, so that a rejected one does not hide all others; some are `null`. */
export function some(chance: Chance, fields: Readonly<Record<string, () => unknown>>): Fields {
  const chosen = Object.entries(fields).filter(() => chance.happens(SHARE));
  return Object.fromEntries(chosen.map(([name, value]) => [name, chance.happens(0.1) ? null : value()]));
}

/** Picks the name of the model, sometimes with an expert. */
function modelName(chance: Chance, { name, experts }: KnownModel): string {
  return experts.length > 0 && chance.happens(0.7) ? `${name}:${chance.pick(experts)}` : name;
}

/** Expert that a body may name in `read_me` beside this name of a model. */
function expertBeside(chance: Chance, name: unknown, { experts }: KnownModel): unknown {
  const named = typeof name === "string" ? experts.find((expert) => name.endsWith(`:${expert}`)) : undefined;
  return named ?? chance.pick<unknown>([0, ...experts]);
}

export function requestFields(chance: Chance, model: KnownModel): Fields {
  const named = some(chance, { model: () => modelName(chance, model) });
  const fields = some(chance, {
    stream: () => chance.happens(0.8),
    stream_options: () =>
      some(chance, {
        include_usage: () => chance.happens(0.8),
        include_obfuscation: () => false,
        continuous_usage_stats: () => false,
      }),
    read_me: () => ({
      ...some(chance, {
        expert: () => expertBeside(chance, named["model"], model),
        priority: () => -chance.below(5),
      }),
      ...(chance.happens(0.7)
        ? { include: chance.pick([["routes"], ["timings"], ["routes", "timings"], ["timings", "timings"], []]) }
        : {}),
    }),
  });
  return { ...named, ...fields };
}

/** Fields that change no answer. */
export function inertFields(chance: Chance): Fields {
  return some(chance, {
    user: () => text(chance),
    metadata: () => Object.fromEntries(chance.list(0, 4, (index) => [`key ${index}`, text(chance)])),
    store: () => chance.happens(0.5),
    service_tier: () => chance.pick(["auto", "default", "flex"]),
    safety_identifier: () => text(chance),
    prompt_cache_key: () => text(chance),
    prompt_cache_retention: () => "24h",
    keep_alive: () => chance.pick<unknown>([-1, "5m"]),
  });
}

/** Constraints with the names of vLLM and llama.cpp. */
function structured(chance: Chance): Fields {
  const kinds: Readonly<Record<string, () => unknown>> = {
    json: () => ({ type: "object", properties: { a: { type: "boolean" } } }),
    regex: () => chance.pick(["[ab]+", "\\d{2}", "é?x"]),
    choice: () => chance.pick([["yes", "no"], ["🙂"]]),
    grammar: () => 'root ::= "a" [0-9]+',
  };
  const kind = chance.pick(Object.keys(kinds));
  const value = kinds[kind]?.();
  if (kind === "grammar" && chance.happens(0.3)) return { grammar: value };
  return chance.happens(0.5) ? { [`guided_${kind}`]: value } : { structured_outputs: { [kind]: value } };
}

/** Draws a value of a parameter's range, with its ends; the few that a request can afford where all would be many. */
function samplingValue(chance: Chance, name: SamplingName, { vocabSize }: KnownModel): unknown {
  const entry: SamplingParameter = SAMPLING_PARAMETERS[name];
  const { kind, min, above = 0, max = Number.MAX_SAFE_INTEGER }: SamplingParameter = { ...entry, ...entry.http };
  const token = (): number => chance.below(vocabSize);
  const least = min ?? above + 1e-9;
  return {
    number: () => chance.pick([least, max, chance.number(least, max), entry.default]),
    integer: () =>
      name === "n" ? chance.between(1, 3) : chance.pick([least, least + 1, chance.between(least, 40), max]),
    flag: () => chance.happens(0.7),
    texts: () => chance.pick<unknown>([".", [" the", "\n"], [], text(chance, 3), "🙂"]),
    tokenIds: () => chance.list(0, 4, token),
    biases: () => Object.fromEntries(chance.list(0, 5, () => [String(token()), chance.number(least, max)])),
  }[kind]();
}

/** Makes the sampling parameters of a body, without those that `lengthFields` makes. */
export function samplingFields(chance: Chance, model: KnownModel): Fields {
  const free = samplingParametersWith("http").filter(([name]) => name !== "minTokens" && name !== "ignoreEos");
  return some(
    chance,
    Object.fromEntries(free.map(([name]) => [wireName(name), () => samplingValue(chance, name, model)])),
  );
}

/** Makes the sampling parameters among the options of Ollama's API. */
export function ollamaSampling(chance: Chance, model: KnownModel): Fields {
  const names = samplingParametersWith("ollama").map(([name, { ollama }]) => [ollama.name, name] as const);
  return some(
    chance,
    Object.fromEntries(names.map(([field, name]) => [field, () => samplingValue(chance, name, model)])),
  );
}

/** Fields that cannot be combined with bound answers. */
function lengthFields(chance: Chance, maxTokens: number): Fields {
  return some(chance, { min_tokens: () => chance.between(0, maxTokens), ignore_eos: () => chance.happens(0.7) });
}

export function completion(chance: Chance, model: KnownModel): Fields {
  const maxTokens = chance.between(1, 4);
  const ids = (): number[] => chance.list(1, 6, () => chance.below(model.vocabSize));
  const prompt = chance.weighted<() => unknown>([
    [6, () => text(chance)],
    [2, () => chance.list(1, 3, () => text(chance, 4))],
    [2, ids],
    [1, () => chance.list(1, 3, ids)],
  ])();
  const fields = some(chance, { logprobs: () => chance.between(0, 20), suffix: () => "", best_of: () => 1 });
  return {
    prompt,
    max_tokens: maxTokens,
    ...requestFields(chance, model),
    ...samplingFields(chance, model),
    ...(chance.happens(0.15) ? structured(chance) : lengthFields(chance, maxTokens)),
    ...inertFields(chance),
    ...fields,
    ...("logprobs" in fields ? {} : some(chance, { echo: () => chance.happens(0.8) })),
  };
}

function content(chance: Chance): unknown {
  if (chance.happens(0.8)) return text(chance);
  return chance.list(1, 3, () => ({ type: "text", text: text(chance, 4) }));
}

/** Makes a prediction. It shares words with prompts and answers, so some of its tokens are right. */
function prediction(chance: Chance): Fields {
  return { type: "content", content: chance.happens(0.1) ? "" : content(chance) };
}

function toolCall(chance: Chance, index: number): Fields {
  const args = chance.pick(["{}", '{"on":true}', '{"a":[1,2,{"b":null}]}', "no JSON", "", "[1", "null"]);
  return {
    id: `call_${index}`,
    type: "function",
    function: { name: chance.pick(["light", "a-b", "x"]), arguments: args },
  };
}

function message(chance: Chance, index: number): Fields {
  const name = chance.happens(0.1) ? { name: text(chance, 2) } : {};
  const role = index === 0 && chance.happens(0.3) ? chance.pick(["system", "developer"]) : "user";
  return chance.weighted<() => Fields>([
    [6, () => ({ role, content: content(chance), ...name })],
    [3, () => ({ role: "assistant", content: content(chance), ...name })],
    [
      1,
      () => ({
        role: "assistant",
        content: chance.pick([null, ""]),
        tool_calls: chance.list(1, 2, (at) => toolCall(chance, at)),
      }),
    ],
    [1, () => ({ role: "tool", content: content(chance), tool_call_id: "call_0", ...name })],
    [0.5, () => ({ role: "assistant", content: content(chance), reasoning_content: text(chance), refusal: null })],
  ])();
}

const messages = (chance: Chance): Fields[] => chance.list(1, 5, (index) => message(chance, index));

export function templateVariables(chance: Chance): Fields {
  return some(chance, {
    enable_thinking: () => chance.happens(0.5),
    documents: () => [{ title: "a", text: text(chance) }],
    date_string: () => "26 Jul 2024",
    custom: () => ({ list: [1, null, "x"] }),
    shout: () => true,
  });
}

export function chat(chance: Chance, model: KnownModel): Fields {
  const maxTokens = chance.between(1, 4);
  const logprobs = chance.happens(SHARE)
    ? { logprobs: true, ...some(chance, { top_logprobs: () => chance.between(0, 20) }) }
    : {};
  const bound = chance.weighted<() => Fields>([
    [6, () => lengthFields(chance, maxTokens)],
    [2, () => ({ response_format: responseFormat(chance) })],
    [2, () => tools(chance)],
    [1, () => structured(chance)],
  ])();
  return {
    messages: messages(chance),
    [chance.pick(["max_tokens", "max_completion_tokens"])]: maxTokens,
    ...requestFields(chance, model),
    ...samplingFields(chance, model),
    ...logprobs,
    ...bound,
    ...inertFields(chance),
    ...some(chance, {
      chat_template_kwargs: () => templateVariables(chance),
      modalities: () => ["text"],
      audio: () => null,
      prediction: () => prediction(chance),
      functions: () => null,
      reasoning_effort: () => chance.pick(["none", "minimal", "low", "medium", "high", "xhigh"]),
      thinking_token_budget: () => chance.between(0, 3),
      verbosity: () => "medium",
    }),
  };
}

/** Fills a gap under Mistral's names. */
export function fillIn(chance: Chance, model: KnownModel): Fields {
  const maxTokens = chance.between(1, 4);
  return {
    prompt: text(chance),
    max_tokens: maxTokens,
    ...samplingFields(chance, model),
    ...lengthFields(chance, maxTokens),
    ...some(chance, {
      model: () => modelName(chance, model),
      suffix: () => text(chance),
      stream: () => chance.happens(0.8),
      random_seed: () => chance.below(1000),
      metadata: () => ({ a: text(chance) }),
    }),
  };
}

/** Fills a gap under llama.cpp's names. */
export function infill(chance: Chance, model: KnownModel): Fields {
  return {
    input_prefix: text(chance),
    input_suffix: chance.happens(0.2) ? "" : text(chance),
    n_predict: chance.between(0, 4),
    ...ollamaSampling(chance, model),
    ...some(chance, {
      model: () => modelName(chance, model),
      prompt: () => text(chance, 3),
      input_extra: () => chance.list(0, 3, (index) => ({ filename: `${index}.ts`, text: text(chance), time: index })),
      stream: () => chance.happens(0.8),
      t_max_predict_ms: () => chance.pick([0, 1, 500]),
      response_fields: () => chance.pick([["content"], ["timings/prompt_n", "none"], []]),
      cache_prompt: () => true,
      id_slot: () => chance.pick([-1, 0]),
      samplers: () => chance.pick<unknown>(["top_k", ["top_k", "infill"]]),
      n_probs: () => 0,
      typical_p: () => 1,
      mirostat: () => 0,
    }),
  };
}

export function embeddings(chance: Chance, model: KnownModel): Fields {
  const ids = (): number[] => chance.list(1, 6, () => chance.below(model.vocabSize));
  return {
    input: chance.pick<() => unknown>([() => text(chance), () => chance.list(1, 3, () => text(chance)), ids])(),
    ...some(chance, { encoding_format: () => chance.pick(["float", "base64"]), dimensions: () => 1 }),
    ...inertFields(chance),
  };
}

export function ranking(chance: Chance): Fields {
  if (chance.happens(0.3)) {
    const fields = ["truncate", "raw_scores", "return_text"].map((name) => [name, () => chance.happens(0.5)] as const);
    const texts = chance.list(1, 3, () => text(chance));
    return { query: text(chance), texts, ...some(chance, Object.fromEntries(fields)) };
  }
  const document = (): unknown => chance.pick<unknown>([text(chance), { text: text(chance) }]);
  return {
    query: text(chance),
    documents: chance.list(1, 3, document),
    ...some(chance, { top_n: () => chance.between(1, 3), return_documents: () => true }),
    ...inertFields(chance),
  };
}

export function scoring(chance: Chance): Fields {
  const texts = (): string[] => chance.list(1, 3, () => text(chance));
  return {
    text_1: text(chance),
    text_2: chance.pick<() => unknown>([() => text(chance), texts])(),
    ...inertFields(chance),
  };
}

export function teiEmbed(chance: Chance, model: KnownModel): Fields {
  const { input: inputs } = embeddings(chance, model);
  return { inputs, ...some(chance, { truncate: () => chance.happens(0.5), normalize: () => chance.happens(0.5) }) };
}

export function classifying(chance: Chance, model: KnownModel): Fields {
  const pair = (): readonly string[] => [text(chance), text(chance)];
  const pairs = (): unknown => chance.list(1, 3, () => chance.pick<unknown>([text(chance), pair()]));
  const { input } = embeddings(chance, model);
  return { input: chance.happens(0.4) ? pairs() : input, ...inertFields(chance) };
}

export function teiPredict(chance: Chance): Fields {
  const item = (): readonly string[] => chance.list(1, 2, () => text(chance));
  const inputs = chance.pick<() => unknown>([() => text(chance), item, () => chance.list(1, 3, item)])();
  return { inputs, ...some(chance, { truncate: () => chance.happens(0.5), raw_scores: () => chance.happens(0.5) }) };
}

export function tokenize(chance: Chance, model: KnownModel): Fields {
  const common = some(chance, { model: () => modelName(chance, model), add_special_tokens: () => chance.happens(0.5) });
  if (chance.happens(0.7)) return { prompt: chance.happens(0.1) ? "" : text(chance, 30), ...common };
  const known = chance.happens(0.3) ? { tools: tools(chance)["tools"] } : {};
  return {
    messages: messages(chance),
    ...common,
    ...known,
    ...some(chance, {
      add_generation_prompt: () => chance.happens(0.5),
      chat_template_kwargs: () => templateVariables(chance),
    }),
  };
}

export function detokenize(chance: Chance, model: KnownModel): Fields {
  return {
    tokens: chance.list(0, 20, () => chance.below(model.vocabSize)),
    ...some(chance, { model: () => modelName(chance, model) }),
  };
}

const ODD_EXPERTS = [
  "",
  "none",
  "router",
  "__proto__",
  "constructor",
  "hasOwnProperty",
  "x".repeat(300),
  "\u0000",
  "a:b",
  "-1",
];

/** Names an expert that may not exist, in the model's name or beside it. */
export function oddExpert(chance: Chance, model: KnownModel): Fields {
  const expert = chance.pick<unknown>([...ODD_EXPERTS, ...model.experts, -1, 0, 1e9, 0.5, null, [], {}]);
  const include = chance.pick([["routes"], ["routes", "timings"], []]);
  const named = chance.happens(0.5)
    ? { model: `${model.name}:${String(expert)}`, read_me: { include } }
    : { read_me: { expert, include } };
  return { prompt: text(chance), max_tokens: chance.between(1, 4), ...named };
}

/** Asks for many choices with log-probabilities. */
export function wide(chance: Chance): Fields {
  const fields = { n: chance.between(1, 16), max_tokens: chance.between(1, 24), stream: chance.happens(0.3) };
  return { prompt: text(chance), logprobs: chance.between(0, 20), ignore_eos: true, ...fields };
}

/** Names of experts that operators load and unload during a run, with names that cannot be loaded. */
const LIVE = ["live-1", "live-2", "live-3", "none", "-", "x".repeat(65)];
/** Folders below the server's folder of experts, with names that lead out of it or nowhere. */
export const ADAPTERS = ["one", "two/deep"] as const;
const PATHS = [...ADAPTERS, ...ADAPTERS, "nothing", "damaged", "../one", "/etc", "one/..", "", ".", "one\\..", "C:one"];

export function loadAdapter(chance: Chance, model: KnownModel): Fields {
  return {
    ...unloadAdapter(chance, model),
    lora_path: chance.pick(PATHS),
    ...some(chance, { load_inplace: () => false }),
  };
}

export function unloadAdapter(chance: Chance, { name }: KnownModel): Fields {
  const expert = chance.pick([...LIVE.slice(0, 3), ...LIVE]);
  return { lora_name: chance.happens(0.5) ? `${name}:${expert}` : expert };
}
