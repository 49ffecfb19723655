// Sampling parameters that a model's files recommend: generation_config.json, or the metadata of a GGUF file.

import { messageOf, resolveSamplingParams, type SamplingDefaults, samplingParametersWith } from "@readme-moe/core";
import { invalid } from "../files/errors.ts";
import type { GgufMetadata } from "../gguf/header.ts";
import { type Fields, MOST } from "./fields.ts";

/** Parameters that shape the distribution, with their names in both kinds of file. */
const SHAPING = samplingParametersWith("file").flatMap(([name, { file }]) =>
  "gguf" in file ? [[name, file] as const] : [],
);

type Names = (typeof SHAPING)[number][1];

/**
 * Reads generation_config.json as transformers does: `do_sample: false` is greedy, and so is a file that has sampling
 * parameters, but neither `do_sample` nor a temperature. A file without any of them recommends nothing.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID`, naming the field
 */
export function generationDefaults(fields: Fields | undefined): SamplingDefaults {
  if (fields === undefined) return {};
  const shape = shapeOf(({ json }) => (fields.has(json) ? fields.number(json) : undefined));
  const samples = fields.has("do_sample") ? fields.boolean("do_sample", false) : undefined;
  const isGreedy =
    samples === false || (samples === undefined && Object.keys(shape).length > 0 && shape.temperature === undefined);
  const maxTokens = fields.has("max_new_tokens") ? fields.size("max_new_tokens", MOST.integer) : undefined;
  const stop = fields.has("stop_strings") ? stopsOf(fields) : undefined;
  return checked(fields.path, {
    ...(isGreedy ? greedy(shape) : shape),
    ...(maxTokens === undefined ? {} : { maxTokens }),
    ...(stop === undefined || stop.length === 0 ? {} : { stop }),
  });
}

/**
 * Reads the keys `general.sampling.…` of a GGUF file, which llama.cpp writes from generation_config.json.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID`, naming the key
 */
export function ggufDefaults(path: string, metadata: GgufMetadata): SamplingDefaults {
  const shape = shapeOf(({ gguf }) => {
    const key = `general.sampling.${gguf}`;
    const value = metadata.get(key);
    if (value === undefined || typeof value === "number") return value;
    throw invalid(path, `expected \`${key}\` to be a number`);
  });
  return checked(path, shape);
}

function shapeOf(read: (names: Names) => number | undefined): SamplingDefaults {
  const found = SHAPING.flatMap(([name, names]) => {
    const value = read(names);
    return value === undefined ? [] : [[name, value] as const];
  });
  const shape: SamplingDefaults = Object.fromEntries(found);
  // Both libraries turn the limit off with 0, and vLLM with -1 as well.
  return shape.topK !== undefined && shape.topK < 0 ? { ...shape, topK: 0 } : shape;
}

/** Keeps the most likely token, and the penalty, which greedy search has as well. */
function greedy({ repetitionPenalty }: SamplingDefaults): SamplingDefaults {
  return { temperature: 0, ...(repetitionPenalty === undefined ? {} : { repetitionPenalty }) };
}

function stopsOf(fields: Fields): readonly string[] {
  const value = fields.raw("stop_strings");
  return typeof value === "string" ? [value] : (fields.texts("stop_strings") ?? []);
}

/** Checks the values as those of a request are. */
function checked(path: string, defaults: SamplingDefaults): SamplingDefaults {
  try {
    resolveSamplingParams(defaults, { vocabSize: Number.MAX_SAFE_INTEGER });
    return defaults;
  } catch (cause) {
    throw invalid(path, `recommends impossible sampling parameters: ${messageOf(cause)}`, { cause });
  }
}
