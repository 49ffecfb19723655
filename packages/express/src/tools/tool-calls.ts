// Tool calls as a model writes them, in the format of Hermes that many models were trained on, and as they are sent.

export const CALL_BEGIN = "<tool_call>";
export const CALL_END = "</tool_call>";

/** Returns the text of a call up to its arguments. */
export function callHead(name: string): string {
  return `${CALL_BEGIN}\n{"name": ${JSON.stringify(name)}, "arguments": `;
}

/** @param args - JSON */
export function callText(name: string, args: string): string {
  return `${callHead(name)}${args}}\n${CALL_END}`;
}

/** A part of a tool call. Only the first part has `id`, `type` and `name`. */
export interface ToolCallDelta {
  readonly index: number;
  readonly id?: string;
  readonly type?: "function";
  readonly function: { readonly name?: string; readonly arguments: string };
}

/** Adds parts of calls to the calls. @returns the same calls */
export function joinToolCalls(deltas: readonly ToolCallDelta[], calls: WholeToolCall[] = []): WholeToolCall[] {
  for (const { index, id, function: part } of deltas) {
    const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    call.id = id ?? call.id;
    call.function.name = part.name ?? call.function.name;
    call.function.arguments += part.arguments;
  }
  return calls;
}

/** Parses the arguments of a call; `undefined` where they were cut off, or are nested too deeply to be written. */
export function parsedArguments(json: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(json);
    JSON.stringify(value);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/** A call whose pieces have been joined. */
export interface WholeToolCall {
  id: string;
  readonly type: "function";
  /** `arguments` is JSON. */
  readonly function: { name: string; arguments: string };
}
