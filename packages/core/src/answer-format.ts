// The form that answers are bound to, as plain data.

import { describeValue, rejectUnknownKeys, isRecord } from "./options.ts";

/** Form of an answer: JSON, JSON that is valid under a schema, or a text of a pattern, a list or a grammar. */
export type AnswerFormat =
  | { readonly type: "json_object" }
  /** JSON that is valid under a JSON schema. */
  | { readonly type: "json_schema"; readonly schema: Readonly<Record<string, unknown>> | boolean }
  /** A text that a regular expression matches as a whole. */
  | { readonly type: "regex"; readonly pattern: string }
  | { readonly type: "choice"; readonly choices: readonly string[] }
  /** A text of a grammar in GBNF notation. `root` is the rule to start from. @default root "root" */
  | { readonly type: "grammar"; readonly grammar: string; readonly root?: string | undefined };

type FormatType = AnswerFormat["type"];

/** Properties besides `type`, and what each has to be. */
const PROPERTIES: Readonly<Record<FormatType, Readonly<Record<string, Expectation>>>> = {
  json_object: {},
  json_schema: { schema: { what: "a JSON schema: an object, true or false", fits: isSchema } },
  regex: { pattern: { what: "a text", fits: isText } },
  choice: { choices: { what: "a list of texts that is not empty", fits: isTexts } },
  grammar: {
    grammar: { what: "a text", fits: isText },
    root: { what: "a text", fits: (value) => value === undefined || isText(value) },
  },
};

interface Expectation {
  readonly what: string;
  readonly fits: (value: unknown) => boolean;
}

/**
 * Checks the shape of a format. Its schema, pattern or grammar is read when the answer begins.
 *
 * @throws {TypeError} naming the property, the expectation and the value
 */
export function checkAnswerFormat(format: unknown): asserts format is AnswerFormat {
  if (typeof format !== "object" || format === null || Array.isArray(format)) {
    throw new TypeError(`Expected \`format\` to be an object with a type, got ${describeValue(format)}`);
  }
  const { type, ...own } = format as Readonly<Record<string, unknown>>;
  if (typeof type !== "string" || !Object.hasOwn(PROPERTIES, type)) {
    const types = Object.keys(PROPERTIES).join(", ");
    throw new TypeError(`Expected \`format.type\` to be one of ${types}, got ${describeValue(type)}`);
  }
  const properties = PROPERTIES[type as FormatType];
  rejectUnknownKeys(`a format of the type ${type}`, own, Object.keys(properties));
  for (const [name, { what, fits }] of Object.entries(properties)) {
    if (fits(own[name])) continue;
    throw new TypeError(`Expected \`format.${name}\` to be ${what}, got ${describeValue(own[name])}`);
  }
}

function isSchema(value: unknown): boolean {
  return typeof value === "boolean" || isRecord(value);
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 && value.every((text) => typeof text === "string");
}
