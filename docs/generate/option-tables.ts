// Generates tables of options, parameters and numbers from the interfaces of the code.

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
  const members = await allMembers(sources);
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
