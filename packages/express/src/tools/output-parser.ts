// Where a model's text becomes content and tool calls.

/** A piece of a tool call; `id`, `type` and `name` are in the first only. */
export interface ToolCallDelta {
  readonly index: number;
  readonly id?: string;
  readonly type?: "function";
  readonly function: { readonly name?: string; readonly arguments: string };
}

export interface ParsedOutput {
  readonly content: string;
  readonly toolCalls: readonly ToolCallDelta[];
}

/** The text of one choice, piece by piece. */
export interface OutputParser {
  push(text: string): ParsedOutput;
  /** What was held back. */
  end(): ParsedOutput;
  readonly calledTools: boolean;
}

/** Everything is content. */
export function plainText(): OutputParser {
  return {
    push: (text) => ({ content: text, toolCalls: [] }),
    end: () => ({ content: "", toolCalls: [] }),
    calledTools: false,
  };
}

export function joinToolCalls(deltas: readonly ToolCallDelta[]): readonly object[] {
  const calls: { id: string; type: "function"; function: { name: string; arguments: string } }[] = [];
  for (const { index, id, function: part } of deltas) {
    const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    call.id = id ?? call.id;
    call.function.name = part.name ?? call.function.name;
    call.function.arguments += part.arguments;
  }
  return calls;
}
