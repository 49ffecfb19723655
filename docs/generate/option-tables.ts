// Generates tables of options, parameters and numbers from the interfaces of the code.

import {
  type OptionTable,
  SAMPLING_PARAMETERS,
  samplingParametersWith,
  wireName,
  type SamplingName,
  type SamplingParameter,
  type TableOption,
} from "@readme-moe/core";
import { ENGINE_OPTIONS } from "@readme-moe/engine";
import { code, table } from "./markdown.ts";
import { membersOf, unionOf, type Member } from "./read-members.ts";

/** File and name of an interface. */
export type Source = readonly [file: string, name: string];

/** Files of types that are unions of strings. Tables show their values in place of their names. */
const UNIONS: Readonly<Record<string, string>> = {
  ControlTokensInMessages: "packages/model/src/text/chat-template.ts",
  EvictionPolicyName: "packages/core/src/expert-cache/eviction-policy.ts",
  FinishReason: "packages/core/src/generation.ts",
  KernelKind: "packages/kernel/src/kernel.ts",
  KvPrecision: "packages/kernel/src/kv/kv-shape.ts",
  Precision: "packages/model/src/weights/model-weights.ts",
};

/** Makes a table of options with their defaults. */
export async function optionTable(...sources: readonly Source[]): Promise<string> {
  return membersTable(await allMembers(sources));
}

function membersTable(members: readonly Member[]): string {
  return table(
    ["option", "type", "meaning", "default"],
    members.map(({ name, type, text, fallback, isOptional }) => [
      code(name),
      code(type),
      text,
      fallback === undefined ? (isOptional ? "" : "required") : shown(fallback),
    ]),
  );
}

const PARAMETERS = "packages/core/src/sampling/sampling-params.ts";

/** Makes the table of sampling parameters: a row for each entry, whose comment says what it means. */
export async function parameterTable(): Promise<string> {
  const types = new Map((await membersOf(PARAMETERS, "SamplingValues")).map(({ name, type }) => [name, type]));
  const comments = await membersOf(PARAMETERS, "SAMPLING_PARAMETERS");
  return table(
    ["option", "type", "meaning", "default"],
    comments.map(({ name, text, fallback = "" }) => {
      const { kind } = SAMPLING_PARAMETERS[name as SamplingName];
      return [code(name), code(types.get(kind) ?? kind), text, shown(fallback)];
    }),
  );
}

/** Makes the table of the names that sampling parameters have in Ollama's API, files and flags. */
export function parameterNameTable(): string {
  const rows = samplingParametersWith("kind").map(([name, entry]) => {
    const { ollama, flag, file }: SamplingParameter = entry;
    const names = [name, ollama && `options.${ollama.name}`, flag?.syntax.split(" ")[0], file?.json];
    return [...names, file?.gguf && `general.sampling.${file.gguf}`].map((cell) =>
      cell === undefined ? "" : code(cell),
    );
  });
  return table(["engine", "Ollama's body", "command line", "`generation_config.json`", "GGUF"], rows);
}

/** Makes the table of sampling parameters in bodies of OpenAI's APIs. */
export async function parameterFieldTable(): Promise<string> {
  const comments = new Map((await membersOf(PARAMETERS, "SAMPLING_PARAMETERS")).map(({ name, text }) => [name, text]));
  const rows = samplingParametersWith("http").map(([name, entry]) => {
    const { about }: NonNullable<SamplingParameter["http"]> = entry.http;
    const values = [valuesOf({ ...entry, ...entry.http }), about && `${about}.`].filter((text) => text !== undefined);
    const meaning = comments.get(name)?.replaceAll(/`(\w+)`/g, (_, other: string) => code(wireName(other))) ?? "";
    return [code(wireName(name)), values.join(". "), meaning];
  });
  return table(["parameter", "values", "meaning"], rows);
}

function valuesOf({ kind, min, above, max, maxItems }: SamplingParameter): string {
  const low = above === undefined ? `${min}` : `above ${above}`;
  const range = max === undefined ? `from ${low}` : `${low} to ${max}`;
  return {
    number: range,
    integer: `integer, ${range}`,
    flag: "true or false",
    texts: `up to ${maxItems} texts`,
    tokenIds: `up to ${maxItems} token ids`,
    biases: `up to ${maxItems} token ids, ${range}`,
  }[kind];
}

const OPTIONS = "packages/engine/src/engine-options.ts";

/** Makes the table of the engine's options. @param others - options of opening it */
export async function engineOptionTable(...others: readonly Source[]): Promise<string> {
  const options = await optionMembers(ENGINE_OPTIONS, [OPTIONS, "ENGINE_OPTIONS"]);
  return membersTable([...options, ...(await allMembers(others))]);
}

/** Makes the table of a job's options in the lab. @param sources - of the comments of `options` */
export async function labOptionTable(options: OptionTable, ...sources: readonly Source[]): Promise<string> {
  return membersTable(await optionMembers(options, ...sources));
}

async function optionMembers(options: OptionTable, ...sources: readonly Source[]): Promise<readonly Member[]> {
  const kinds = await membersOf("packages/core/src/option-table.ts", "OptionValues");
  const types = new Map(kinds.map(({ name, type }) => [name, type]));
  const members = await allMembers(sources);
  return members.map((member) => {
    const { kind, choices = [], orModule }: Partial<TableOption> = options[member.name] ?? {};
    const values = [...choices.map((choice) => `"${choice}"`), types.get(kind ?? ""), orModule && "FunctionModule"];
    return { ...member, isOptional: true, type: values.filter((one) => one !== undefined).join(" | ") };
  });
}

/** Makes a table of read-only fields. */
export async function fieldTable(...sources: readonly Source[]): Promise<string> {
  const members = await allMembers(sources);
  return table(
    ["field", "type", "meaning"],
    members.map(({ name, type, text, isOptional }) => [code(name + (isOptional ? "?" : "")), code(type), text]),
  );
}

/** Formats a value as code, and leaves words unchanged. */
function shown(fallback: string): string {
  return /^[^\s`]+$/.test(fallback) && !/^[a-z]+$/.test(fallback) ? code(fallback) : fallback;
}

async function allMembers(sources: readonly Source[]): Promise<readonly Member[]> {
  const members = (await Promise.all(sources.map(([file, name]) => membersOf(file, name)))).flat();
  return Promise.all(members.map(async (member) => ({ ...member, type: await withoutUnionNames(member.type) })));
}

async function withoutUnionNames(type: string): Promise<string> {
  const parts = type.split(" | ").map(async (part) => {
    const file = UNIONS[part];
    return file === undefined ? part : unionOf(file, part);
  });
  return (await Promise.all(parts)).join(" | ");
}
