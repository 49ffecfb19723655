import { ApiError } from "../http/api-error.ts";

/** A function that the model may call, in the shape of the OpenAI API. */
export interface ToolDefinition {
  readonly type: "function";
  readonly function: {
    readonly name: string;
    readonly description?: string | null | undefined;
    /** JSON Schema of an object. @default an object without properties */
    readonly parameters?: Readonly<Record<string, unknown>> | null | undefined;
    /** Calls have to be valid under `parameters`, whoever chooses to make them. */
    readonly strict?: boolean | null | undefined;
  };
}

type ToolChoice =
  | "none"
  | "auto"
  | "required"
  | { readonly type: "function"; readonly function: { readonly name: string } };

/** What a request says about tools. */
export interface ToolFields {
  readonly tools?: readonly ToolDefinition[] | null | undefined;
  readonly tool_choice?: ToolChoice | null | undefined;
  readonly parallel_tool_calls?: boolean | null | undefined;
}

/** Which tools can be called in an answer. */
export interface UsableTools {
  /** What the model is told of. */
  readonly told: readonly ToolDefinition[];
  /** What it may call. */
  readonly callable: readonly ToolDefinition[];
  /** The answer has to be a call. */
  readonly isRequired: boolean;
  readonly isSingle: boolean;
}

/** @throws {ApiError} 400 on names that are there twice, and choices of what is not there */
export function usableTools({ tools, tool_choice: choice, parallel_tool_calls: parallel }: ToolFields): UsableTools {
  const told = tools ?? [];
  const names = told.map((tool) => tool.function.name);
  const double = names.find((name, index) => names.indexOf(name) !== index);
  if (double !== undefined) throw invalidTools("tools", `two functions have the name '${double}'`);
  const isSingle = parallel === false;
  if (choice === "none" || (told.length === 0 && (choice ?? "auto") === "auto")) {
    return { told, callable: [], isRequired: false, isSingle };
  }
  if (told.length === 0) throw invalidTools("tool_choice", "expected `tools` beside it");
  if (choice === "required") return { told, callable: told, isRequired: true, isSingle };
  if (typeof choice !== "object" || choice === null) return { told, callable: told, isRequired: false, isSingle };
  const callable = told.filter((tool) => tool.function.name === choice.function.name);
  if (callable.length > 0) return { told, callable, isRequired: true, isSingle: true };
  throw invalidTools("tool_choice", `no function in \`tools\` has the name '${choice.function.name}'`);
}

export function invalidTools(param: string, message: string, cause?: unknown): ApiError {
  const details = { status: 400, type: "invalid_request_error", code: "invalid_value", param, cause };
  return new ApiError({ ...details, message: `Invalid '${param}': ${message}` });
}
