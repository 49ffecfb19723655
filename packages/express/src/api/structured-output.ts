// Constraints on an answer's text under the names of OpenAI, vLLM and llama.cpp, with their grammars, and the last
// message that the answer goes on with.

import { isRecord } from "@readme-moe/core";
import type { Asker, Constraint, Grammars, JsonSchema } from "@readme-moe/grammar";
import { invalid, unsupported } from "../http/errors.ts";
import { usableTools } from "../tools/tools.ts";
import type { ChatBody, StructuredFields } from "./request-schemas.ts";

type Compilers = Pick<Grammars, "jsonSchema" | "regex" | "choice" | "grammar">;

interface StructuredOutput {
  /** Parameter that asks for it. */
  readonly param: string;
  readonly compile: (grammars: Compilers, client: Asker) => Promise<Constraint>;
}

type Fields = StructuredFields & Pick<ChatBody, "response_format">;

/**
 * Returns the constraint that a request asks for. Schemas bind the answer whether or not they are `strict`.
 *
 * @throws {ApiError} 400 where it asks for two
 */
export function structuredOutput(fields: Partial<Fields>): StructuredOutput | undefined {
  const { structured_outputs: named, response_format: format } = fields;
  const asked = [
    ...formatted(format),
    ...json("guided_json", fields.guided_json),
    ...json("structured_outputs.json", named?.json),
    ...json("structured_outputs.json_object", named?.json_object ? { type: "object" } : undefined),
    ...constraint("guided_regex", fields.guided_regex, regex),
    ...constraint("structured_outputs.regex", named?.regex, regex),
    ...constraint("guided_choice", fields.guided_choice, choice),
    ...constraint("structured_outputs.choice", named?.choice, choice),
    ...constraint("guided_grammar", fields.guided_grammar, grammar),
    ...constraint("grammar", fields.grammar, grammar),
    ...constraint("structured_outputs.grammar", named?.grammar, grammar),
  ];
  const [first, second] = asked;
  if (first && second) throw unsupported(second.param, `'${second.param}' is not supported beside '${first.param}'`);
  return first;
}

type Schema = boolean | string | Readonly<Record<string, unknown>>;
type Compile<Value> = (value: Value, grammars: Compilers, client: Asker) => Promise<Constraint>;

const regex: Compile<string> = (pattern, grammars, client) => grammars.regex(pattern, client);
const choice: Compile<readonly string[]> = (texts, grammars, client) => grammars.choice(texts, client);
const grammar: Compile<string> = (text, grammars, client) => grammars.grammar(text, undefined, client);

function constraint<Value>(
  param: string,
  value: Value | null | undefined,
  compile: Compile<Value>,
): readonly StructuredOutput[] {
  if (value == null) return [];
  return [{ param, compile: (grammars, client) => compile(value, grammars, client) }];
}

function formatted(format: Fields["response_format"]): readonly StructuredOutput[] {
  if (!format || format.type === "text") return [];
  if (format.type === "json_object") return json("response_format", { type: "object" });
  return json("response_format.json_schema.schema", format.json_schema.schema ?? true);
}

function json(param: string, schema: Schema | null | undefined): readonly StructuredOutput[] {
  return constraint(param, schema, (value, grammars, client) => grammars.jsonSchema(schemaOf(param, value), client));
}

/** Returns a schema; vLLM takes it as a text, too. */
function schemaOf(param: string, schema: Schema): JsonSchema {
  if (typeof schema !== "string") return schema;
  let value: unknown;
  try {
    value = JSON.parse(schema);
  } catch (error) {
    throw invalid(param, "expected a JSON schema, got a text that is not JSON", error);
  }
  if (typeof value === "boolean" || isRecord(value)) return value;
  throw invalid(param, "expected a JSON schema, got another JSON text");
}

/**
 * Compiles a constraint.
 *
 * @throws {ApiError} 400, for a schema, pattern or grammar that is wrong or not supported
 * @throws {ReadMeError} as `Grammars.jsonSchema`
 */
export async function compileOutput(
  { param, compile }: StructuredOutput,
  grammars: Compilers,
  client: Asker = {},
): Promise<Constraint> {
  try {
    return await compile(grammars, client);
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
    throw invalid(param, error.message, error);
  }
}

/** Parameters that a constrained answer excludes: it ends where its grammar ends. */
export function checkConstrained(
  fields: { readonly ignore_eos?: unknown; readonly min_tokens?: unknown },
  by: string,
): void {
  for (const param of ["ignore_eos", "min_tokens"] as const) {
    if (fields[param]) throw unsupported(param, `'${param}' is not supported beside '${by}'`);
  }
}

/** @throws {ApiError} 400 naming the parameter, if the model has no end token */
export async function openGrammars(param: string, open: () => Promise<Grammars>): Promise<Grammars> {
  try {
    return await open();
  } catch (error) {
    if (error instanceof TypeError) {
      throw invalid(param, "this model's answers cannot be constrained: it has no end token");
    }
    throw error;
  }
}

/**
 * Checks that the last message can be continued, where a request asks for it. A format or calls of tools would bind
 * the continuation alone, and not the answer as a whole.
 *
 * @throws {ApiError} 400
 */
export function checkContinued(body: ChatBody): void {
  if (!body.continue_final_message) return;
  if (body.add_generation_prompt) {
    throw unsupported(
      "add_generation_prompt",
      "'add_generation_prompt' is not supported beside `continue_final_message`",
    );
  }
  const index = body.messages.length - 1;
  const last = body.messages[index];
  if (last?.role !== "assistant" || textOf(last) === undefined) {
    throw invalid(`messages[${index}]`, "expected the assistant's text, since `continue_final_message` is set");
  }
  const output = structuredOutput(body);
  if (output)
    throw unsupported("continue_final_message", `'continue_final_message' is not supported beside '${output.param}'`);
  if (usableTools(body).callable.length === 0) return;
  throw unsupported(
    "continue_final_message",
    "'continue_final_message' is not supported beside `tools` that may be called",
  );
}

/** Returns the messages with one text as the content of the last one, where it is continued. */
export function withFinalText(
  { continue_final_message: isContinued }: ChatBody,
  messages: ChatBody["messages"],
): ChatBody["messages"] {
  const last = messages.at(-1);
  const text = last && textOf(last);
  if (!isContinued || last?.role !== "assistant" || text === undefined) return messages;
  return [...messages.slice(0, -1), { ...last, content: text }];
}

/** Returns a message's text; `undefined` for none, and beside calls. */
function textOf(message: ChatBody["messages"][number]): string | undefined {
  const { content } = message;
  if ("tool_calls" in message && (message.tool_calls ?? []).length > 0) return undefined;
  if (content === null || content === undefined) return undefined;
  return joinedText(content);
}

export function joinedText(content: string | readonly { readonly text: string }[], separator = ""): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join(separator);
}
