// Every event, with the fields of its payload.

import { code, table } from "./markdown.ts";
import { membersIn, membersOf, type Member } from "./read-members.ts";

export async function eventSections(): Promise<string> {
  const events = await membersOf("packages/core/src/events.ts", "ReadMeEvents");
  return events.map(section).join("\n\n");
}

function section({ name, type, text }: Member): string {
  const fields = membersIn(type.slice(type.indexOf("{") + 1));
  if (fields.length === 0) throw new Error(`${name}: no fields were found in ${type}`);
  const rows = fields.map((field) => [code(field.name + (field.isOptional ? "?" : "")), code(field.type), field.text]);
  return [`## ${name}`, text, table(["field", "type", "is"], rows)].join("\n\n");
}
