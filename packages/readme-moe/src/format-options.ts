// Options of commands that bind answers to a form.

import type { AnswerFormat } from "@readme-moe/core";
import { Option } from "commander";
import { readTextData } from "./data-files.ts";

/** Flags that bind answers, of which at most one is given. */
export interface FormatFlags {
  /** Path of a file with a JSON schema. */
  readonly jsonSchema?: string;
  readonly jsonObject?: true;
  readonly regex?: string;
  readonly choice?: readonly string[];
  /** Path of a file with a grammar in GBNF notation. */
  readonly grammar?: string;
}

const NAMES = [
  "jsonSchema",
  "jsonObject",
  "regex",
  "choice",
  "grammar",
] as const satisfies readonly (keyof FormatFlags)[];

export function formatOptions(): readonly Option[] {
  const options = [
    new Option("--json-schema <file>", "bind answers to the JSON schema in this file"),
    new Option("--json-object", "bind answers to any JSON object"),
    new Option("--regex <pattern>", "bind answers to texts that this regular expression matches as a whole"),
    new Option("--choice <text...>", "bind answers to one of these texts"),
    new Option("--grammar <file>", "bind answers to the grammar in this file, in GBNF notation"),
  ];
  for (const option of options) option.conflicts(NAMES.filter((name) => name !== option.attributeName()));
  return options;
}

/**
 * Makes the format of the flags; `undefined` if answers are free.
 * @throws {ReadMeError} when a file cannot be read, {TypeError} when a schema is no JSON
 */
export async function answerFormat(flags: FormatFlags): Promise<AnswerFormat | undefined> {
  const { jsonSchema, jsonObject, regex: pattern, choice: choices, grammar } = flags;
  if (jsonSchema !== undefined) return { type: "json_schema", schema: await readSchema(jsonSchema) };
  if (jsonObject) return { type: "json_object" };
  if (pattern !== undefined) return { type: "regex", pattern };
  if (choices !== undefined) return { type: "choice", choices };
  return grammar === undefined ? undefined : { type: "grammar", grammar: await readTextData(grammar) };
}

async function readSchema(path: string): Promise<Readonly<Record<string, unknown>> | boolean> {
  try {
    return JSON.parse(await readTextData(path));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new TypeError(`Expected --json-schema to name a file with JSON, got ${path}: ${cause.message}`, { cause });
  }
}
