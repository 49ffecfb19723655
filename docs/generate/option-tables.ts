// Tables of options, parameters and numbers, from the interfaces that the code checks them by.

import { code, table } from "./markdown.ts";
import { membersOf, type Member } from "./read-members.ts";

/** Where an interface is. */
export type Source = readonly [file: string, name: string];

/** Options with their defaults. */
export async function optionTable(...sources: readonly Source[]): Promise<string> {
  const members = await allMembers(sources);
  return table(
    ["option", "type", "is", "default"],
    members.map(({ name, type, text, fallback, isOptional }) => [
      code(name),
      code(type),
      text,
      fallback === undefined ? (isOptional ? "" : "has to be given") : shown(fallback),
    ]),
  );
}

/** Fields that are only read. */
export async function fieldTable(...sources: readonly Source[]): Promise<string> {
  const members = await allMembers(sources);
  return table(
    ["field", "type", "is"],
    members.map(({ name, type, text, isOptional }) => [code(name + (isOptional ? "?" : "")), code(type), text]),
  );
}

/** A value as code, words as they are. */
function shown(fallback: string): string {
  return /^[^\s`]+$/.test(fallback) && !/^[a-z]+$/.test(fallback) ? code(fallback) : fallback;
}

async function allMembers(sources: readonly Source[]): Promise<readonly Member[]> {
  return (await Promise.all(sources.map(([file, name]) => membersOf(file, name)))).flat();
}
