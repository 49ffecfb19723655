// How calls are written in a model's text: the way of Hermes, which many models were trained on.

import type { TaggedAnswers } from "@readme-moe/grammar";
import type { ToolDefinition, UsableTools } from "./definitions.ts";

export const CALL_BEGIN = "<tool_call>";
export const CALL_END = "</tool_call>";

/** @param args - JSON */
export function callText(name: string, args: string): string {
  return `${beginOf(name)}${args}${END}`;
}

const END = `}\n${CALL_END}`;

function beginOf(name: string): string {
  return `${CALL_BEGIN}\n{"name": ${JSON.stringify(name)}, "arguments": `;
}

/** What answers have to be so that every call is one of a tool there is, with arguments that are valid for it. */
export function callAnswers({ callable, isRequired, isSingle }: UsableTools): TaggedAnswers {
  return {
    tags: callable.map((tool) => ({ begin: beginOf(tool.function.name), schema: parametersOf(tool), end: END })),
    trigger: isRequired ? undefined : CALL_BEGIN,
    isSingle,
  };
}

function parametersOf({ function: { parameters } }: ToolDefinition): Readonly<Record<string, unknown>> {
  return parameters ?? { type: "object", additionalProperties: false };
}

/** Tells a model of its tools whose chat template has no place for them. */
export function toolsPrompt(tools: readonly ToolDefinition[]): string {
  return [
    "You may call one or more functions to help with the user's request.",
    "Here are the functions, as JSON within <tools></tools>:",
    "<tools>",
    ...tools.map(({ type, function: { name, description, parameters } }) =>
      JSON.stringify({ type, function: { name, description: description ?? "", parameters: parameters ?? {} } }),
    ),
    "</tools>",
    "For each call answer with a JSON object of the function's name and arguments within <tool_call></tool_call>:",
    CALL_BEGIN,
    '{"name": <function name>, "arguments": <arguments as a JSON object>}',
    CALL_END,
  ].join("\n");
}
