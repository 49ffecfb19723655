// Generates a section for every event, with the fields of its payload.

import { code, table } from "./markdown.ts";
import { membersIn, membersOf, type Member } from "./read-members.ts";

/** Files of payloads that are named interfaces. */
const PAYLOADS: Readonly<Record<string, string>> = { KernelInfo: "packages/core/src/events.ts" };

export async function eventSections(): Promise<string> {
  const events = await membersOf("packages/core/src/events.ts", "ReadMeEvents");
  return (await Promise.all(events.map(section))).join("\n\n");
}

async function section({ name, type, text }: Member): Promise<string> {
  const fields = await fieldsOf(type);
  if (fields.length === 0) throw new Error(`${name}: no fields were found in ${type}`);
  const rows = fields.map((field) => [code(field.name + (field.isOptional ? "?" : "")), code(field.type), field.text]);
  return [`## ${name}`, text, table(["field", "type", "meaning"], rows)].join("\n\n");
}

async function fieldsOf(type: string): Promise<readonly Member[]> {
  const payload = /^\(event: (\w+)\)/.exec(type)?.[1];
  const file = payload === undefined ? undefined : PAYLOADS[payload];
  return payload !== undefined && file !== undefined
    ? membersOf(file, payload)
    : membersIn(type.slice(type.indexOf("{") + 1));
}
