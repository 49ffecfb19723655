// The sampling options of `generate` and `chat`, named as in OpenAI's and transformers' options.

import type { SamplingParams } from "@readme-moe/core";
import { InvalidArgumentError, Option } from "commander";
import { wholeNumber } from "./options.ts";

export interface SamplingFlags {
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias?: Readonly<Record<number, number>>;
  readonly seed?: number;
  readonly stop?: readonly string[];
}

export function samplingOptions(defaultTemperature: number, defaultMaxNewTokens: number): readonly Option[] {
  return [
    new Option("--max-new-tokens <n>", "tokens to add at most").argParser(wholeNumber(1)).default(defaultMaxNewTokens),
    new Option("--temperature <t>", "0 takes the most likely token each time")
      .argParser(number)
      .default(defaultTemperature),
    new Option("--top-k <n>", "choose among the n most likely tokens; 0 for all").argParser(wholeNumber(0)),
    new Option("--top-p <p>", "choose among the most likely tokens that together have this probability").argParser(
      number,
    ),
    new Option("--min-p <p>", "drop tokens less likely than p times the most likely one").argParser(number),
    new Option("--repetition-penalty <x>", "above 1 makes tokens that were there less likely").argParser(number),
    new Option("--presence-penalty <x>", "taken off tokens that the completion has").argParser(number),
    new Option("--frequency-penalty <x>", "taken off for each time that the completion has a token").argParser(number),
    new Option("--logit-bias <id=bias...>", "added to the logits of tokens, such as 42=-100").argParser(logitBias),
    new Option("--seed <n>", "makes choices repeatable").argParser(wholeNumber(0)),
    new Option("--stop <text...>", "end before any of these texts"),
  ];
}

/** Values are checked by the engine, which names them as its options. */
export function samplingParams(flags: SamplingFlags): SamplingParams {
  const { maxNewTokens: maxTokens, temperature, topK, topP, minP, repetitionPenalty } = flags;
  const { presencePenalty, frequencyPenalty, logitBias: bias, seed, stop } = flags;
  const penalties = { repetitionPenalty, presencePenalty, frequencyPenalty };
  return { maxTokens, temperature, topK, topP, minP, ...penalties, logitBias: bias, seed, stop };
}

function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("Expected a number.");
  return value;
}

function logitBias(text: string, before: Readonly<Record<number, number>> = {}): Readonly<Record<number, number>> {
  const [, id, bias] = /^(\d+)=(-?\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (id === undefined) throw new InvalidArgumentError("Expected id=bias, such as 42=-100.");
  return { ...before, [Number(id)]: Number(bias) };
}
