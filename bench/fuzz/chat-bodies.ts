// Bodies that the Responses API and the Messages API must accept.

import {
  inertFields,
  requestFields,
  samplingFields,
  some,
  templateVariables,
  text,
  type KnownModel,
} from "./bodies.ts";
import type { Chance } from "./chance.ts";
import { object, schema, tools as chatTools } from "./schemas.ts";

type Fields = Record<string, unknown>;

interface ChatTool {
  readonly function: { readonly name: string; readonly description?: string; readonly parameters?: Fields };
}

const objectSchema = (chance: Chance): Fields => object(chance, () => schema(chance, 1));

/** Makes tools, and a choice among them if there is one. */
function tools(chance: Chance): {
  readonly list: readonly ChatTool[];
  readonly choice: unknown;
  readonly more: Fields;
} {
  const { tools: list, tool_choice: choice, ...more } = chatTools(chance);
  return { list: list as readonly ChatTool[], choice, more };
}

function item(chance: Chance): Fields {
  const parts = (type: string): Fields[] => chance.list(1, 2, () => ({ type, text: text(chance, 4) }));
  return chance.weighted<() => Fields>([
    [5, () => ({ role: chance.pick(["user", "user", "system", "developer"]), content: text(chance) })],
    [
      2,
      () => ({ type: "message", role: "user", content: parts("input_text"), ...some(chance, { id: () => "msg_1" }) }),
    ],
    [
      2,
      () => ({
        type: "message",
        id: "msg_2",
        role: "assistant",
        status: "completed",
        content: parts("output_text").map((part) => ({ ...part, annotations: [] })),
      }),
    ],
    [1, () => ({ type: "function_call", call_id: "call_1", name: "light", arguments: chance.pick(["{}", "", "[1"]) })],
    [
      1,
      () => ({
        type: "function_call_output",
        call_id: "call_1",
        output: chance.pick<unknown>(["done", parts("input_text")]),
      }),
    ],
    [0.5, () => ({ type: "reasoning", summary: [], content: [{ type: "reasoning_text", text: text(chance) }] })],
  ])();
}

export function response(chance: Chance, model: KnownModel): Fields {
  const { list, choice, more } = tools(chance);
  const flat = list.map(({ function: own }) => ({ type: "function", ...own }));
  const named = typeof choice === "object" ? { type: "function", name: flat[0]?.name } : choice;
  const bound = chance.weighted<() => Fields>([
    [6, () => ({})],
    [1, () => ({ text: { format: { type: "json_schema", name: "answer", schema: objectSchema(chance) } } })],
    [1, () => ({ text: { format: { type: chance.pick(["text", "json_object"]) } } })],
    [2, () => ({ tools: flat, ...more, ...(named === undefined ? {} : { tool_choice: named }) })],
  ])();
  const { stream_options: _options, ...fields } = requestFields(chance, model);
  const { n: _n, ...sampling } = samplingFields(chance, model);
  return {
    input: chance.happens(0.5) ? text(chance) : chance.list(1, 5, () => item(chance)),
    max_output_tokens: chance.between(1, 4),
    ...fields,
    ...sampling,
    ...bound,
    ...inertFields(chance),
    ...some(chance, {
      instructions: () => text(chance),
      reasoning: () => some(chance, { effort: () => chance.pick(["none", "low", "high"]), summary: () => "auto" }),
      truncation: () => chance.pick(["auto", "disabled"]),
      include: () => ["message.output_text.logprobs"],
      top_logprobs: () => chance.between(0, 20),
      store: () => chance.happens(0.5),
      chat_template_kwargs: () => templateVariables(chance),
      thinking_token_budget: () => chance.between(0, 3),
    }),
  };
}

function blocks(chance: Chance): unknown {
  if (chance.happens(0.6)) return text(chance);
  return chance.list(1, 3, () => ({ type: "text", text: text(chance, 4), ...some(chance, CACHE) }));
}

const CACHE = { cache_control: () => ({ type: "ephemeral" }) };

function turn(chance: Chance): Fields {
  const result = { type: "tool_result", tool_use_id: "call_1" };
  return chance.weighted<() => Fields>([
    [5, () => ({ role: "user", content: blocks(chance) })],
    [3, () => ({ role: "assistant", content: blocks(chance) })],
    [
      1,
      () => ({ role: "assistant", content: [{ type: "tool_use", id: "call_1", name: "light", input: { on: true } }] }),
    ],
    [1, () => ({ role: "user", content: [{ ...result, content: blocks(chance), is_error: chance.happens(0.3) }] })],
    [0.5, () => ({ role: "assistant", content: [{ type: "thinking", thinking: text(chance), signature: "x" }] })],
  ])();
}

function promptOf(chance: Chance): Fields {
  const { list, choice } = tools(chance);
  const own = list.map(({ function: { name, description, parameters } }) => ({
    name,
    ...(description === undefined ? {} : { description }),
    input_schema: parameters ?? { type: "object" },
  }));
  const choices: Readonly<Record<string, unknown>> = {
    auto: { type: "auto" },
    none: { type: "none" },
    required: { type: "any" },
  };
  const chosen = typeof choice === "string" ? choices[choice] : choice && { type: "tool", name: own[0]?.name };
  const bound = chance.weighted<() => Fields>([
    [6, () => ({})],
    [2, () => ({ output_config: { format: { type: "json_schema", schema: objectSchema(chance) } } })],
    [2, () => ({ tools: own, ...(chosen === undefined ? {} : { tool_choice: chosen }) })],
  ])();
  return {
    messages: [...chance.list(0, 4, () => turn(chance)), { role: "user", content: blocks(chance) }],
    ...bound,
    ...some(chance, { system: () => blocks(chance), chat_template_kwargs: () => templateVariables(chance) }),
  };
}

export function message(chance: Chance, model: KnownModel): Fields {
  const { temperature: _t, stop: _s, n: _n, ...sampling } = samplingFields(chance, model);
  const { model: name, stream, read_me: readMe } = requestFields(chance, model);
  const maxTokens = chance.between(2, 5);
  return {
    ...promptOf(chance),
    max_tokens: maxTokens,
    ...(name == null ? {} : { model: name }),
    ...(stream == null ? {} : { stream }),
    ...(readMe == null ? {} : { read_me: readMe }),
    ...sampling,
    ...some(chance, {
      temperature: () => chance.pick([0, 0.5, 1]),
      stop_sequences: () => chance.pick([["."], [" the", "\n"], []]),
      metadata: () => ({ user_id: text(chance) }),
      service_tier: () => "auto",
      context_management: () => ({ edits: [{ type: "clear_thinking_20251015", keep: "all" }] }),
      thinking: () =>
        chance.pick<unknown>([{ type: "enabled", budget_tokens: 1 }, { type: "adaptive" }, { type: "disabled" }]),
    }),
  };
}

export function countTokens(chance: Chance): Fields {
  return promptOf(chance);
}
