// Calls that a whole text means: a plain reader that knows nothing of marks and streams.

import { isRecord } from "@readme-moe/core";

export interface MeantCall {
  readonly name: string;
  readonly args: object;
}

/** Finds the objects of a text that name a function and have arguments, and calls in XML. */
export function meantCalls(text: string, names: ReadonlySet<string>): readonly MeantCall[] {
  const calls: MeantCall[] = [];
  for (let at = text.indexOf("{"); at !== -1; at = text.indexOf("{", at)) {
    const found = objectAt(text, at);
    const call = found && callOf(found.value, names);
    if (call) calls.push(call);
    at = call ? found.end : at + 1;
  }
  for (const [, name = "", body = ""] of text.matchAll(/<function=([\w-]+)>([^]*?)<\/function>/g)) {
    if (!names.has(name)) continue;
    const args = Array.from(body.matchAll(/<parameter=([^>]+)>([^]*?)<\/parameter>/g), ([, key, value = ""]) => [
      key,
      value.trim(),
    ]);
    calls.push({ name, args: Object.fromEntries(args) as object });
  }
  return calls;
}

/** Reads the object that begins at a place, by trying each closing bracket. */
function objectAt(text: string, from: number): { readonly value: unknown; readonly end: number } | undefined {
  for (let end = text.indexOf("}", from); end !== -1; end = text.indexOf("}", end + 1)) {
    try {
      return { value: JSON.parse(text.slice(from, end + 1)) as unknown, end: end + 1 };
    } catch {
      // A later bracket may close it.
    }
  }
  return undefined;
}

function callOf(value: unknown, names: ReadonlySet<string>): MeantCall | undefined {
  if (!isRecord(value)) return undefined;
  const { name, arguments: args, parameters } = value;
  const given = args ?? parameters;
  return typeof name === "string" && names.has(name) && isRecord(given) ? { name, args: given } : undefined;
}
