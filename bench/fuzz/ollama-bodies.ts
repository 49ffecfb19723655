// Bodies that Ollama's API must accept.

import { ollamaSampling, some, text, type KnownModel } from "./bodies.ts";
import type { Chance } from "./chance.ts";
import { object, schema, tools as chatTools } from "./schemas.ts";

type Fields = Record<string, unknown>;

/** Makes the options of a request: those that change an answer, and those of loading a model. */
function options(chance: Chance, model: KnownModel): Fields {
  return {
    num_predict: chance.between(1, 4),
    ...ollamaSampling(chance, model),
    ...some(chance, {
      repeat_last_n: () => chance.pick([-1, 0, 64]),
      num_ctx: () => 2048,
      num_gpu: () => chance.pick([-1, 0, 99]),
      num_thread: () => 4,
      use_mmap: () => chance.happens(0.5),
      mirostat: () => 0,
      typical_p: () => 1,
    }),
  };
}

function shared(chance: Chance, model: KnownModel): Fields {
  return {
    model: chance.pick([model.name, `${model.name}:latest`]),
    options: options(chance, model),
    ...some(chance, {
      stream: () => chance.happens(0.7),
      keep_alive: () => chance.pick<unknown>([-1, "5m", 0]),
      think: () => chance.pick<unknown>([true, false, "low"]),
    }),
  };
}

function format(chance: Chance): Fields {
  return { format: chance.pick<unknown>(["json", "", object(chance, () => schema(chance, 1))]) };
}

const CALL = { function: { name: "light", arguments: { on: true } } };

function turn(chance: Chance): readonly Fields[] {
  return chance.weighted<() => readonly Fields[]>([
    [5, () => [{ role: chance.pick(["user", "user", "system"]), content: text(chance) }]],
    [3, () => [{ role: "assistant", content: text(chance), ...some(chance, { thinking: () => text(chance) }) }]],
    [
      1,
      () => [
        { role: "assistant", content: "", tool_calls: [CALL] },
        { role: "tool", content: text(chance), tool_name: "light" },
      ],
    ],
  ])();
}

export function ollamaChat(chance: Chance, model: KnownModel): Fields {
  const bound = chance.weighted<() => Fields>([
    [6, () => ({})],
    [2, () => format(chance)],
    [2, () => ({ tools: chatTools(chance)["tools"] })],
  ])();
  const messages = chance.list(0, 3, () => turn(chance)).flat();
  return { ...shared(chance, model), messages: [...messages, { role: "user", content: text(chance) }], ...bound };
}

export function ollamaGenerate(chance: Chance, model: KnownModel): Fields {
  return {
    ...shared(chance, model),
    prompt: text(chance),
    ...(chance.happens(0.2) ? format(chance) : {}),
    ...some(chance, { system: () => text(chance), raw: () => chance.happens(0.7), suffix: () => "", images: () => [] }),
  };
}

export function ollamaEmbed(chance: Chance, { name }: KnownModel): Fields {
  const input = chance.pick<() => unknown>([() => text(chance), () => chance.list(1, 3, () => text(chance))])();
  return { model: name, input, ...some(chance, { truncate: () => false, keep_alive: () => "5m" }) };
}

export function ollamaEmbedOne(chance: Chance, { name }: KnownModel): Fields {
  return { model: name, prompt: text(chance), ...some(chance, { keep_alive: () => "5m" }) };
}

export function ollamaShow(chance: Chance, { name }: KnownModel): Fields {
  return { [chance.pick(["model", "name"])]: name, ...some(chance, { verbose: () => true }) };
}
