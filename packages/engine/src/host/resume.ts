// The check of tokens that a request goes on after.

import {
  describeValue,
  integerOption,
  rejectUnknownKeys,
  type GenerateRequest,
  type ResolvedSamplingParams,
} from "@readme-moe/core";

/**
 * Checks the tokens of each choice, and copies them. Stop strings and the context are known where the text is.
 *
 * @returns `[n]` lists; `undefined` if the request begins at its beginning
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function wireResume(
  resume: GenerateRequest["resume"],
  params: ResolvedSamplingParams,
): readonly Int32Array[] | undefined {
  if (resume === undefined) return undefined;
  if (typeof resume !== "object" || resume === null) throw wrongType("resume", "{ choices }", resume);
  rejectUnknownKeys("`resume`", resume, ["choices"]);
  const { choices } = resume;
  if (!Array.isArray(choices)) throw wrongType("resume.choices", "a list of lists of token ids", choices);
  if (choices.length !== params.n) {
    throw new RangeError(
      `Expected \`resume.choices\` to have ${params.n} lists, one for each choice, got ${choices.length}`,
    );
  }
  if (params.temperature > 0 && params.seed === undefined) {
    throw new TypeError("Expected `seed` beside `resume`, since `temperature` is above 0, got undefined");
  }
  return choices.map((tokenIds: unknown, choice) => checkedChoice(`resume.choices[${choice}]`, tokenIds, params));
}

function checkedChoice(name: string, value: unknown, params: ResolvedSamplingParams): Int32Array {
  const { vocabSize, maxTokens, minTokens, maskedUntilMinTokens: endIds } = params;
  const tokenIds = value as ArrayLike<unknown>;
  if (typeof value !== "object" || value === null || typeof tokenIds.length !== "number") {
    throw wrongType(name, "a list of token ids", value);
  }
  const { length } = tokenIds;
  if (length > maxTokens)
    throw new RangeError(`Expected \`${name}\` to have at most ${maxTokens} tokens, got ${length}`);
  return Int32Array.from({ length }, (_, index) => {
    const id = integerOption(`${name}[${index}]`, tokenIds[index], 0, vocabSize - 1);
    if (!endIds.has(id) || (index === length - 1 && index >= minTokens)) return id;
    const place = index < minTokens ? `before ${minTokens} tokens` : `before its last token`;
    throw new RangeError(`Expected \`${name}\` to have no end token ${place}, got ${id} at ${index}`);
  });
}

function wrongType(name: string, expected: string, value: unknown): TypeError {
  return new TypeError(`Expected \`${name}\` to be ${expected}, got ${describeValue(value)}`);
}
